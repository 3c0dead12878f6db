"""The resident model, and how it runs on the hardware that is there."""
