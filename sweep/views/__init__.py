"""Results of a sweep: the board, two sweeps side by side, the frontier."""
