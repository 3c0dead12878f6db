"""Exports a trial as files that others can load: an adapter directory, or a model with its biases folded in."""
