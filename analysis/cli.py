"""The command line of ``python -m analysis``. Exit status: 0, 2 for bad input, 130 when stopped."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.commands import add_completion, command_line_of
from search_spaces.errors import SponError
from trainables.activity import listening, printer
from trainables.quiet import hush
from trainables.tracking import tracking_uri

if TYPE_CHECKING:
    from search_spaces.config import Split
    from trainables.checkpoint import Checkpoint


def main(argv: list[str] | None = None) -> int:
    """Run one command and print a user error as one line."""
    arguments = command_line().parse_args(argv)
    hush()
    try:
        with listening(printer()):
            arguments.command(arguments)
    except SponError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return the parser of all commands and options."""
    parser, add = command_line_of("analysis", "Analyse the biases of finished trials.")
    interpret = add("interpret", _interpret, "examine what biases of checkpoints do, with nulls, in one report")
    chosen = interpret.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--sweep", metavar="NAME", help="the best trials of a sweep")
    chosen.add_argument("--selection", type=Path, metavar="FILE", help="selection.json of a search")
    chosen.add_argument("--run", nargs="+", action="extend", metavar="ID", help="MLflow runs of trials")
    chosen.add_argument("--checkpoint", type=Path, nargs="+", action="extend", metavar="DIR", help="checkpoints")
    interpret.add_argument(
        "--top", type=int, default=1, help="with --sweep: trials of each sparsity plan (%(default)s)"
    )
    interpret.add_argument("--by", default="val_kl_nats", help="with --sweep: metric, lowest first (%(default)s)")
    interpret.add_argument(
        "--only", type=_listed, action="extend", metavar="A,B", help="questions to ask; all by default"
    )
    interpret.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="held-out text to read (%(default)s)"
    )
    interpret.add_argument("--blocks", type=int, default=32, help="blocks of that text (%(default)s)")
    interpret.add_argument("--prompts", type=Path, metavar="YAML", help="prompts by category; our own by default")
    interpret.add_argument("--out", type=Path, help="results; in the sweep's folder, or in the storage, by default")
    where = "address of a Ray cluster; RAY_ADDRESS, or Ray on this machine by default"
    interpret.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help=where)
    export = add("export", _export, "export a trial's biases as files that others can load")
    export.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="directory of a finished trial's checkpoint"
    )
    export.add_argument("directory", type=Path, metavar="DIR", help="directory to write; must be new or empty")
    export.add_argument("--absorb", action="store_true", help="write the whole model, with the biases folded in")
    evaluate = add("evaluate", _evaluate, "score the dense model, TEAL alone and SPON on tasks and other text")
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="directory of a trial's checkpoint")
    evaluate.add_argument(
        "--tasks",
        type=_listed,
        action="extend",
        metavar="A,B",
        help="tasks of the lm-evaluation-harness: names, or YAML files such as analysis/evaluation/own.yaml, which may "
        "run Python",
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="items of each task; all by default")
    evaluate.add_argument(
        "--text", type=Path, nargs="+", action="extend", metavar="FILE", default=[], help="text files or directories"
    )
    evaluate.add_argument("--blocks", type=int, default=64, help="most blocks or windows of each text (%(default)s)")
    evaluate.add_argument("--window", type=int, metavar="W", help="also score text in windows of W tokens")
    evaluate.add_argument(
        "--stride", type=int, metavar="S", help="score only the last S tokens of a window; all by default"
    )
    evaluate.add_argument("--add-bos", action="store_true", help="begin each block and window with the BOS token")
    evaluate.add_argument("--out", type=Path, help="results; in the storage by default")
    for sub in (interpret, evaluate):
        sub.add_argument("--storage", type=Path, default=Path("runs"), help="directory of all results (%(default)s)")
        sub.add_argument("--mlflow-uri", help="MLFLOW_TRACKING_URI, or the storage's SQLite database, by default")
    figures = add("figures", _figures, "draw all figures and the report again from stored results")
    tables = add("tables", _tables, "print the tables of stored results")
    tables.add_argument("--latex", action="store_true", help="print LaTeX, with all rows")
    for sub in (figures, tables):
        sub.add_argument("directory", type=Path, metavar="DIR", help="directory of results from interpret")
    add_completion(parser, add, "analysis")
    return parser


def _listed(text: str) -> list[str]:
    """Split A,B into its parts. A repeated option adds its parts."""
    return [part for part in text.split(",") if part]


# Each command imports what it needs, so that `--help` and bad input answer before torch and Ray load.


def _interpret(arguments: argparse.Namespace) -> None:
    from analysis.examine import COMPARISON, QUESTIONS, Settings, check_only
    from analysis.interpret import interpret
    from analysis.prompts import PROMPTS, read_prompts
    from analysis.questions.cross import incomparable
    from trainables.cache import writable

    if arguments.blocks < 2:
        raise SponError(f"an interval must have at least 2 blocks, but got {arguments.blocks} (at --blocks)")
    check_only(arguments.only or ())
    settings = Settings(
        only=arguments.only or (*QUESTIONS, COMPARISON),
        split=arguments.split,
        n_blocks=arguments.blocks,
        prompts=read_prompts(arguments.prompts or PROMPTS),
        chosen_on=_chosen_on(arguments),
    )
    uri = tracking_uri(arguments.mlflow_uri, arguments.storage)
    checkpoints, out = _chosen(arguments, uri)
    asked_for = COMPARISON in (arguments.only or ())
    if asked_for and (reason := incomparable([checkpoint.meta.config for checkpoint in checkpoints])):
        raise SponError(f"{reason} (at --only {COMPARISON})")
    place: Path = arguments.out or out
    with writable(place):
        interpret(checkpoints, settings, place, uri, arguments.address)


def _chosen_on(arguments: argparse.Namespace) -> "Split | None":
    """Return the split whose scores chose the checkpoints; None if the user named them."""
    if arguments.sweep and arguments.by.startswith("test_"):
        return "test"
    return "validation" if arguments.sweep or arguments.selection else None


def _chosen(arguments: argparse.Namespace, uri: str) -> "tuple[list[Checkpoint], Path]":
    """Return the checkpoints and the default directory of their results."""
    from analysis.select import best_of_sweep, chosen_by_search, from_directories, from_runs

    storage: Path = arguments.storage
    if arguments.sweep:
        best = best_of_sweep(storage, arguments.sweep, arguments.top, arguments.by)
        return best, storage / arguments.sweep / "analysis"
    if arguments.selection:
        return chosen_by_search(arguments.selection), arguments.selection.parent / "analysis"
    if arguments.run:
        return from_runs(arguments.run, uri), storage / "analysis"
    return from_directories(arguments.checkpoint), storage / "analysis"


def _evaluate(arguments: argparse.Namespace) -> None:
    tasks = arguments.tasks or ()
    if not tasks and (arguments.tasks is not None or not arguments.text):
        raise SponError("an evaluation must have a task or a text, but got none (at --tasks, --text)")
    if (arguments.window or arguments.stride or arguments.add_bos) and not arguments.text:
        raise SponError("windows must have a text, but got none (at --text)")
    for name, least in (("limit", 1), ("blocks", 2), ("window", 2), ("stride", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise SponError(f"{name} must be at least {least}, but got {value} (at --{name})")

    from analysis.evaluation.evaluate import evaluate
    from trainables.cache import writable

    uri = tracking_uri(arguments.mlflow_uri, arguments.storage)
    place: Path = arguments.out or arguments.storage / "analysis"
    with writable(place):
        evaluate(
            arguments.checkpoint,
            place,
            uri,
            tasks=tasks,
            limit=arguments.limit,
            texts=arguments.text,
            n_windows=arguments.blocks,
            window=arguments.window,
            stride=arguments.stride,
            add_bos=arguments.add_bos,
        )


def _figures(arguments: argparse.Namespace) -> None:
    from analysis.report.publish import publish
    from trainables.cache import writable

    with writable(arguments.directory):
        *figures, report, tables = publish(arguments.directory)
    print(f"{len(figures)} files of figures, {report} and {tables}")


def _tables(arguments: argparse.Namespace) -> None:
    from analysis.report.stored import read_results
    from analysis.report.tables import as_latex, as_text

    print((as_latex if arguments.latex else as_text)(read_results(arguments.directory)))


def _export(arguments: argparse.Namespace) -> None:
    from analysis.export.write import export

    export(arguments.checkpoint, arguments.directory, arguments.absorb)
    print(f"exported to {arguments.directory}; its README.md says how to load it")
