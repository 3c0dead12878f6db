"""A sweep from start to end: materials, trials, the test report, the board."""

import os
import sys
import time
from pathlib import Path

import ray

from search_spaces.errors import SponError
from search_spaces.resolve import resolve_grid
from search_spaces.schema import SpaceConfig
from sweep.board import make_board
from sweep.folder import SweepFolder, check_sweep, create_sweep
from sweep.render import as_text, write_board
from sweep.report import report_on_test
from sweep.tracking import Tracker
from sweep.tuner import run_trials, start_ray
from trainables.workbench import find_materials

_PYTHON = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else sys.executable
"""How to call this interpreter from here, such as ``.venv/bin/python``."""


def run_sweep(space: SpaceConfig, storage: Path, tracking_uri: str, address: str | None = None) -> int:
    """Run what is left of a sweep and print its board.

    Args:
        space: what to run; what its folder in the storage holds already is not done again.
        storage: directory of all results.
        tracking_uri: of MLflow.
        address: of a Ray cluster; Ray on this machine by default.

    Returns:
        Exit status: 0 all trials finished, 1 some failed, 130 stopped before the end.

    Raises:
        SponError: if the space does not fit the model, the corpus, the machine or the storage.
    """
    started = time.monotonic()
    if space.search is not None:
        raise SponError("a space must be a grid so far, but it has a search, which no command runs yet (at search)")
    check_sweep(storage, space)
    materials = find_materials(space.model, space.corpus)
    trials, others = resolve_grid(space, materials.shape, materials.fingerprints)
    start_ray(space.resources, address)
    folder = create_sweep(storage, space)  # only now: a space that cannot run leaves its name free
    print(f"{folder.name}: {len(trials)} trials, results in {folder.path}", flush=True)
    for name, known in others.items():
        print(f"{name} is the same mask as {known} and is trained once")
    outcome = run_trials(folder, trials, tracking_uri)
    if outcome.unfinished:
        print(f"stopped with {outcome.unfinished} trials to go; go on with: {_command('sweep resume', folder)}")
        return outcome.exit_code
    if outcome.finished:
        report_on_test(folder)
        _publish(folder, tracking_uri)
    ray.shutdown()
    print(_closing(folder, tracking_uri, outcome.failed, time.monotonic() - started))
    return outcome.exit_code


def _publish(folder: SweepFolder, tracking_uri: str) -> None:
    board = make_board(folder)
    write_board(board, folder.path)
    Tracker(tracking_uri, folder).sync_all()
    print(f"\n{as_text(board)}\n")


def _closing(folder: SweepFolder, tracking_uri: str, failed: int, seconds: float) -> str:
    lines = [f"{folder.name} took {seconds / 60:.1f} min; table, figure and checkpoints are in {folder.path}"]
    if failed:
        lines.append(f"{failed} trials FAILED:")
        lines += [f"  {trial.path.name}: {trial.failure}" for trial in folder.trials if trial.state == "failed"]
    ui = (
        tracking_uri
        if tracking_uri.startswith("http")
        else f"{_PYTHON} -m mlflow ui --backend-store-uri {tracking_uri}"
    )
    lines.append(f"compare in MLflow:  {ui}")
    lines.append(f"run the analysis:   {_command('analysis interpret --sweep', folder)} --top 2")
    return "\n".join(lines)


def _command(command: str, folder: SweepFolder) -> str:
    storage = folder.path.parent
    return f"{_PYTHON} -m {command} {folder.name}" + ("" if storage == Path("runs") else f" --storage {storage}")
