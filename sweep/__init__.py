"""Many trials: the command line, and a file for each longer command."""
