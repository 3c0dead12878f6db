"""Terminal output while a command runs. It knows nothing of sweeps."""
