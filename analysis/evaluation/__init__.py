"""Scores the dense, TEAL and SPON models of a checkpoint on tasks of the evaluation harness and on other text."""
