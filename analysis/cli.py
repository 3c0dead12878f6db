"""The command line of ``python -m analysis``. Exit status: 0, or 2 for bad input."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.biases import describe_biases
from analysis.report.publish import publish
from analysis.report.stored import read_results
from analysis.report.tables import as_latex, as_text
from analysis.select import best_of_sweep
from search_spaces.errors import SponError
from trainables.checkpoint import Checkpoint, read_checkpoint


def main(argv: list[str] | None = None) -> int:
    """Run one command; a user's fault is printed as one line."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except SponError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Analyse the biases of finished trials.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    interpret = commands.add_parser("interpret", help="statistics of each bias, and sites ranked by norm")
    interpret.set_defaults(command=_interpret)
    chosen = interpret.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--sweep", metavar="NAME", help="take the best trials of a sweep")
    chosen.add_argument("--checkpoint", type=Path, nargs="+", metavar="DIR", help="take these checkpoints")
    interpret.add_argument("--top", type=int, default=1, help="trials of each sparsity plan (%(default)s)")
    interpret.add_argument("--by", default="val_kl_nats", help="metric to choose by, lowest first (%(default)s)")
    interpret.add_argument("--storage", type=Path, default=Path("runs"), help="directory of all results (%(default)s)")
    figures = commands.add_parser("figures", help="draw all figures and the report again from stored results")
    figures.set_defaults(command=_figures)
    tables = commands.add_parser("tables", help="print the tables of stored results")
    tables.set_defaults(command=_tables)
    tables.add_argument("--latex", action="store_true", help="as LaTeX, with all rows")
    for stored in (figures, tables):
        stored.add_argument("directory", type=Path, metavar="DIR", help="directory of results")
    return parser


def _figures(arguments: argparse.Namespace) -> int:
    *figures, report, tables = publish(arguments.directory)
    print(f"{len(figures)} files of figures, {report} and {tables}")
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    print((as_latex if arguments.latex else as_text)(read_results(arguments.directory)))
    return 0


def _interpret(arguments: argparse.Namespace) -> int:
    if arguments.sweep:
        checkpoints = best_of_sweep(arguments.storage, arguments.sweep, arguments.top, arguments.by)
    else:
        checkpoints = [read_checkpoint(directory) for directory in arguments.checkpoint]
    for checkpoint in checkpoints:
        print(_describe(checkpoint))
    return 0


def _describe(checkpoint: Checkpoint) -> str:
    config, metrics = checkpoint.meta.config, checkpoint.meta.metrics
    table = pd.DataFrame([statistics.as_row() for statistics in describe_biases(checkpoint.biases)])
    head = f"{config.name}  ({config.plan.label}, val KL {metrics['val_kl_nats']:.4f} nats)"
    return f"{head}\n{table.to_string(index=False, float_format='{:.4f}'.format)}\n"
