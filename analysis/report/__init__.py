"""Presents findings as figures, tables and one HTML report, from stored results alone.

Nothing here loads a model, torch or Ray, and a test enforces it.
"""
