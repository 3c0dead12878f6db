"""Everything readable, made from stored results alone."""
