"""One question a file: pure functions, arrays in and frozen dataclass out, and ``find``, which asks it of a subject."""
