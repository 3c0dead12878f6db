"""The embedded model and text."""
