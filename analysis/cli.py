"""The command line of ``python -m analysis``. Exit status: 0, or 2 for bad input."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.biases import describe_biases
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
    export = commands.add_parser("export", help="a trial's biases as files that transformers can use")
    export.set_defaults(command=_export)
    export.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="directory of a finished trial's checkpoint"
    )
    export.add_argument("directory", type=Path, metavar="DIR", help="to make; an adapter, unless --absorb")
    export.add_argument("--absorb", action="store_true", help="write the whole model, biases folded into its weights")
    return parser


def _export(arguments: argparse.Namespace) -> int:
    from analysis.export.write import export  # other commands need none of it

    export(arguments.checkpoint, arguments.directory, arguments.absorb)
    print(f"exported to {arguments.directory}; its README.md says how to load it")
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
