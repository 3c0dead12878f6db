"""The resident model, and how it runs on the available hardware."""
