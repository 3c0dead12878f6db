"""The committed results of the study that this work grows out of: read, checked, taken over and redrawn."""
