"""The command line of ``python -m sweep``.

Exit status: 0 success; 1 a trial failed, or ``doctor`` found a fault; 2 bad input; 3 internal error; 130 stopped before
the end by Ctrl-C or SIGTERM.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.commands import add_completion, command_line_of
from search_spaces.config import SpaceConfig, json_schema
from search_spaces.errors import SponError
from search_spaces.load import load_space
from search_spaces.resolve import only_levels
from search_spaces.search import quick, search_of
from sweep.store.lock import driving, stop_driver
from sweep.terminal.display import Display
from trainables.activity import tell
from trainables.quiet import hush

if TYPE_CHECKING:
    from sweep.store.folder import SweepFolder


_WATCH_SECONDS = 2.0
_AGAIN_SECONDS = 0.05
_TELL_LOST = sys.unraisablehook
_CLEAR = "\033[H\033[2J"
"""Clears the terminal."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and print a user's error without a traceback."""
    hush()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _as_ctrl_c)  # the signal that stops a process on a cluster
        sys.unraisablehook = _stop_again
    try:
        arguments = command_line().parse_args(argv)
        return int(arguments.command(arguments))
    except SponError as error:
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:  # uncaught, it would exit with 1, like a failed trial
        traceback.print_exc()
        print(f"internal error, not bad input: {error!r}; finished work is kept", file=sys.stderr)
        return 3


def _as_ctrl_c(*_: object) -> None:
    """Act like Ctrl-C, even where it is ignored, as in a background process of a script."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _stop_again(lost: "sys.UnraisableHookArgs") -> None:
    """Repeat a Ctrl-C that came during an object's cleanup, where Python drops all exceptions."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        _TELL_LOST(lost)


def command_line() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser, add = command_line_of("sweep", "Find which layers of an activation-sparse LLM need a SPON bias.")
    plan = add("plan", _plan, "list the trials of a space, with an estimate from a few measured steps")
    run = add("run", _run, "run a space with Ray Tune; repeat the command to resume")
    levels = add("levels", _levels, "find the levels of a space and what they cost, without training a bias")
    find = add("find", _find, "find levels and biases for one model, and write them as an adapter")
    search = add("search", _search, "search a space for masks; repeat the command to resume")
    resume = add("resume", _resume, "resume a stopped sweep or search")
    listing = add("ls", _ls, "list the sweeps in a storage, one per line")
    status = add("status", _status, "print the progress of a sweep, and the time and cost left, from its folder")
    stop = add("stop", _stop, "stop a sweep in another process on this machine, as Ctrl-C would")
    logs = add("logs", _logs, "print the events of a sweep's trials in chronological order")
    board = add("board", _board, "print the results table of a sweep")
    compare = add("compare", _compare, "compare the results of trials that two sweeps share")
    sync = add("sync", _sync, "send what is missing to MLflow and to an Optuna database")
    add("schema", _schema, "print the JSON Schema of a space, for editors")
    doctor = add("doctor", _doctor, "check versions, devices, cache, disk, hub, Ray and MLflow, and suggest fixes")
    doctor.add_argument("--address", help="Ray cluster whose nodes are checked too")
    doctor.add_argument("space", type=Path, nargs="?", metavar="SPACE.yaml", help="its model and text are looked for")
    add_completion(parser, add, "sweep")
    for sub in (plan, run, levels, search):
        sub.add_argument("space", type=Path, metavar="SPACE.yaml")
    for sub in (plan, run, levels, search, resume):
        sub.add_argument("--set", action="append", metavar="KEY=VALUE", help="override, such as training.epochs=2")
    resume.add_argument("--retry-failed", action="store_true", help="retry failed trials from their last saved state")
    plan.add_argument("--no-measure", action="store_true", help="list only; load no weights")
    search.add_argument("--quick", action="store_true", help="try the search on little text, as NAME-quick")
    for sub in (resume, status, stop, logs, board, compare, sync):
        sub.add_argument("name", metavar="NAME", help="name of the sweep")
    for sub in (run, levels, search, resume):
        where = "Ray cluster, auto or HOST:PORT; by default RAY_ADDRESS, or Ray on this machine"
        sub.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help=where)
    for sub in (run, levels, search, resume, sync):
        sub.add_argument("--optuna-storage", metavar="URL", help="database that receives a copy of a search's study")
        sub.add_argument("--mlflow-uri", help="by default MLFLOW_TRACKING_URI, or a SQLite database in the storage")
    find.add_argument("model", metavar="MODEL", help="embedded, a Hugging Face id, or a directory")
    find.add_argument("--sparsity", type=float, default=0.5, help="share of the weights to skip (%(default)s)")
    find.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the adapter; new or empty")
    find.add_argument("--text", nargs="+", action="extend", metavar="FILE", default=[], help="the last is for the test")
    find.add_argument("--budget", type=float, metavar="MINUTES", help="learn from as much text as this allows")
    for sub in (run, levels, find, search, resume, listing, status, stop, logs, board, compare, sync):
        sub.add_argument(
            "--storage",
            type=_storage,
            default="runs",
            metavar="PLACE",
            help="where results are: a directory, s3:// or gs:// (%(default)s)",
        )
    logs.add_argument("trial", nargs="?", default="", metavar="TRIAL", help="prefix of trial names; all by default")
    compare.add_argument("other", metavar="OTHER", help="second sweep, in the same storage")
    status.add_argument("--watch", action="store_true", help="refresh every two seconds while a driver runs")
    for sub in (listing, status, compare):
        sub.add_argument("--json", action="store_true", help="print JSON")
    board.add_argument("--split", choices=("validation", "test"), help="by default test, where it is scored")
    form = board.add_mutually_exclusive_group()
    form.add_argument("--wide", dest="form", action="store_const", const="wide", help="all columns, as in board.txt")
    form.add_argument("--against", type=Path, metavar="YAML", help="add published figures (docs/study.yaml)")
    for kind in ("csv", "latex", "json"):
        form.add_argument(f"--{kind}", dest="form", action="store_const", const=kind)
    return parser


def _storage(text: str) -> Path:
    """Return the local directory of a storage, which may be a bucket."""
    if "://" not in text:
        return Path(text)
    from sweep.store.storage import home_of

    return home_of(text)


def _opened(arguments: argparse.Namespace, name: str | None = None) -> "SweepFolder":
    """Open a sweep in the storage, by default the one named on the command line."""
    from sweep.store.folder import open_sweep

    return open_sweep(arguments.storage, name or arguments.name)


# Commands import what they use, so that `--help` and bad input answer before torch, Ray and MLflow are loaded.


def _plan(arguments: argparse.Namespace) -> int:
    space = load_space(arguments.space, arguments.set)
    with Display():
        tell("loading libraries")
        from sweep.plan import print_plan

        print_plan(space, measure=not arguments.no_measure)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    return _sweep(load_space(arguments.space, arguments.set), arguments)


def _levels(arguments: argparse.Namespace) -> int:
    return _sweep(only_levels(load_space(arguments.space, arguments.set)), arguments)


def _find(arguments: argparse.Namespace) -> int:
    with Display():
        tell("loading libraries")
        from sweep.find import find, space_to_find, within_budget
        from trainables.tracking import tracking_uri

        space = space_to_find(arguments.model, arguments.sparsity, arguments.text)
        if arguments.budget is not None:
            space = within_budget(space, arguments.budget, arguments.storage)
        return find(space, arguments.out, arguments.storage, tracking_uri(None, arguments.storage))


def _search(arguments: argparse.Namespace) -> int:
    space = load_space(arguments.space, arguments.set)
    search_of(space)
    return _sweep(quick(space) if arguments.quick else space, arguments)


def _resume(arguments: argparse.Namespace) -> int:
    folder = _opened(arguments)
    space = load_space(folder.path / "space.json", arguments.set) if arguments.set else folder.space
    return _sweep(space, arguments)


def _sweep(space: SpaceConfig, arguments: argparse.Namespace) -> int:
    with Display():
        tell("loading libraries")
        from sweep.run import run_sweep
        from sweep.search.database import check_database
        from trainables.tracking import tracking_uri

        uri = tracking_uri(arguments.mlflow_uri, arguments.storage)
        if arguments.optuna_storage:
            check_database(arguments.optuna_storage)
        again = vars(arguments).get("retry_failed", False)
        return run_sweep(space, arguments.storage, uri, arguments.address, arguments.optuna_storage, again)


def _ls(arguments: argparse.Namespace) -> int:
    from sweep.status import as_lines, status_of
    from sweep.store.storage import root_of, sweeps_in

    found = [status_of(_opened(arguments, name)) for name in sweeps_in(arguments.storage)]
    if arguments.json:
        print(json.dumps([{"name": one.name, "driver": one.driver, **one.states} for one in found], indent=1))
    else:
        lines = [as_lines(one)[0] for one in found]
        print(*lines or [f"no sweeps in {root_of(arguments.storage)}"], sep="\n")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from sweep.status import as_lines, status_of

    while True:
        status = status_of(_opened(arguments))
        if arguments.watch and sys.stdout.isatty():
            print(_CLEAR, end="")
        print(json.dumps(asdict(status), indent=1) if arguments.json else "\n".join(as_lines(status)), flush=True)
        if not (arguments.watch and status.driver):
            return 0
        time.sleep(_WATCH_SECONDS)


def _logs(arguments: argparse.Namespace) -> int:
    from sweep.status import log_lines

    print(*log_lines(_opened(arguments), arguments.trial), sep="\n")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from sweep.views.compare import as_text, compare

    pairs = compare(_opened(arguments), _opened(arguments, arguments.other))
    if arguments.json:
        print(json.dumps([{**pair._asdict(), "difference": pair.difference._asdict()} for pair in pairs], indent=1))
    else:
        print(as_text(pairs, arguments.name, arguments.other))
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    holder = stop_driver(_opened(arguments).path)
    print(f"stopped {holder}" if holder else f"no driver runs {arguments.name}")
    return 0


def _board(arguments: argparse.Namespace) -> int:
    from sweep.views import against
    from sweep.views.board import make_board
    from sweep.views.render import as_latex, as_text, as_wide_text

    board = make_board(_opened(arguments), arguments.split)
    if arguments.against:
        print(against.as_text(board, against.read_published(arguments.against)))
        return 0
    forms: dict[str | None, Callable[[], str]] = {
        None: lambda: as_text(board),
        "wide": lambda: as_wide_text(board),
        "csv": lambda: board.to_csv(index=False),
        "latex": lambda: as_latex(board),
        "json": lambda: board.to_json(orient="records", indent=1),
    }
    print(forms[arguments.form]())
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    from sweep.store.storage import mirrored
    from sweep.store.tracking import Tracker
    from trainables.tracking import tracking_uri

    folder, database, copied = _opened(arguments), arguments.optuna_storage, True
    uri = tracking_uri(arguments.mlflow_uri, arguments.storage)
    with driving(folder.path), mirrored(folder.path):
        if database:  # imports Ray and Optuna
            from sweep.search.database import check_database, copy_studies

            check_database(database)
            copied = copy_studies(folder, database)
        told = Tracker(uri, folder).sync_all()
    return 0 if told and copied else 1


def _schema(arguments: argparse.Namespace) -> int:
    print(json_schema(), end="")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from sweep.doctor import examine

    return examine(arguments.address, load_space(arguments.space) if arguments.space else None)
