"""What was found, for people: figures, tables and one HTML report, from stored results alone.

Nothing here loads a model, torch or Ray; a test sees to it.
"""
