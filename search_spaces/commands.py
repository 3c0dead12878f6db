"""Shared parts of both command lines: name, version, commands, completion."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search_spaces import __version__

Add = Callable[[str, Callable[[argparse.Namespace], Any], str], argparse.ArgumentParser]
"""Adds a command, given its name, its function and a one-line summary, and returns its parser."""


def command_line_of(room: str, description: str) -> tuple[argparse.ArgumentParser, Add]:
    """A command line without commands, and a function that adds one.

    Args:
        room: ``sweep`` or ``analysis``. Usage lines show the program as it was called, such as ``spon-sweep``.
        description: of the command line.
    """
    script = f"spon-{room}"
    called = script if Path(sys.argv[0]).stem == script else f"python -m {room}"
    parser = argparse.ArgumentParser(prog=called, description=description)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], Any], summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        return sub

    return parser, add


def add_completion(parser: argparse.ArgumentParser, add: Add, room: str) -> None:
    """Add the command that prints a shell completion script for commands, options, choices and files."""

    def complete(arguments: argparse.Namespace) -> int:
        import shtab  # here, because only this command needs it

        parser.prog = f"spon-{room}"
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for action in (action for command in commands.choices.values() for action in command._actions):
            if action.type is Path:
                action.complete = shtab.FILE
        print(shtab.complete(parser, arguments.shell))
        return 0

    sub = add("completion", complete, f"print the shell completion script of spon-{room}")
    sub.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell; eval the output in its start-up file")
