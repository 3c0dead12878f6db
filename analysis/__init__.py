"""What was found: reads checkpoints from disk, never a running sweep."""
