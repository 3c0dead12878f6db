"""Many trials: the command line, and a file for each command that is more than a few lines."""
