"""Text to documents to token blocks."""
