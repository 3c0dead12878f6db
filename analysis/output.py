"""A check of directories for results before hours of work."""

import tempfile
from pathlib import Path

from trainables.cache import writable


def create_output(directory: Path) -> None:
    """Create a directory for results, unless it exists, and write a file into it that is removed at once.

    Raises:
        SponError: if that fails.
    """
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
