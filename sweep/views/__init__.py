"""What a sweep came to: the board, two sweeps side by side, the frontier."""
