"""How a command was called, for its usage line, and how a shell completes it."""

import argparse
import sys
from pathlib import Path

SHELLS = ("bash", "zsh", "tcsh")


def called(room: str) -> str:
    """The name that the usage line gives a command, such as ``spon-sweep`` where that is what was typed.

    Args:
        room: whose command line it is: ``sweep`` or ``analysis``.
    """
    script = f"spon-{room}"
    return script if Path(sys.argv[0]).stem == script else f"python -m {room}"


def completion(parser: argparse.ArgumentParser, program: str, shell: str) -> str:
    """The script by which a shell completes commands, options, choices and files.

    Args:
        parser: of the command line; each of its commands has a parser of its own.
        program: the name that is typed.
        shell: one of ``SHELLS``.
    """
    import shtab  # here, because only this command wants it

    parser.prog = program
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for action in (action for command in commands.choices.values() for action in command._actions):
        if action.type is Path:
            action.complete = shtab.FILE  # what shtab looks for
    return shtab.complete(parser, shell)
