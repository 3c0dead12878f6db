"""One file for each question: pure functions from arrays to frozen dataclasses, and ``find``, which asks a subject."""
