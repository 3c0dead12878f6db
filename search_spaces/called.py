"""How a command was called, for its usage line."""

import sys
from pathlib import Path


def called(room: str) -> str:
    """The name that the usage line gives a command, such as ``spon-sweep`` where that is what was typed.

    Args:
        room: whose command line it is: ``sweep`` or ``analysis``.
    """
    script = f"spon-{room}"
    return script if Path(sys.argv[0]).stem == script else f"python -m {room}"
