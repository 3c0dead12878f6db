"""A checkpoint judged beyond its own text: tasks of the evaluation harness, and other text. Dense, TEAL and SPON."""
