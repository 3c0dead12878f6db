"""Completion of a command line in a shell, made from its parser."""

import argparse
from collections.abc import Iterable

_SCRIPT = """\
# For bash, in ~/.bashrc: eval "$({program} completion)"; for zsh, after: autoload -U bashcompinit && bashcompinit
{function}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} options='' words=''
    if [ "$COMP_CWORD" -eq 1 ]; then
        options='{options}' words='{commands}'
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
        case ${{COMP_WORDS[1]}}:$before in
{values}
            *:-*) words='' ;; # a value of its own, or a file
        esac
    fi
    case $word in -*) words=$options ;; esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F {function} {program}
"""


def completion(parser: argparse.ArgumentParser, program: str, spaces: Iterable[str] = ()) -> str:
    """A script for bash that completes commands, options, their choices and the names of shipped spaces.

    Args:
        parser: of the command line; each of its commands has a parser of its own.
        program: the name that is typed.
        spaces: names that stand for a space.
    """
    (choice,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    cases, values = [], []
    for name, command in choice.choices.items():
        taken = " ".join(spaces) if any(action.metavar == "SPACE.yaml" for action in command._actions) else ""
        cases.append(f"            {name}) options='{_options(command)}' words='{taken}' ;;")
        for action in command._actions:
            flags = "|".join(f"{name}:{flag}" for flag in action.option_strings)
            if action.choices and flags:
                values.append(f"            {flags}) words='{' '.join(map(str, action.choices))}' ;;")
            elif action.nargs == 0 and flags:
                values.append(f"            {flags}) ;;")
    return _SCRIPT.format(
        program=program,
        function="_" + program.replace("-", "_"),
        options=_options(parser),
        commands=" ".join(choice.choices),
        cases="\n".join(cases),
        values="\n".join(values),
    )


def _options(parser: argparse.ArgumentParser) -> str:
    return " ".join(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))
