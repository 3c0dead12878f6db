"""What the terminal says while a command runs; it knows nothing of sweeps."""
