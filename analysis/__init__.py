"""Analyses of finished trials. Reads checkpoints from disk, never a running sweep."""
