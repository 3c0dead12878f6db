"""A sweep from start to end: materials, trials, the test report, the board."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import ray

from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.resolve import Fingerprints, resolve_grid
from search_spaces.search import check_search
from sweep.search.findings import FINDINGS
from sweep.search.measure import Measurement, NotMeasured, without_measured
from sweep.search.stages import Search
from sweep.store.folder import SweepFolder, TrialFolder, began, check_sweep, create_sweep
from sweep.store.lock import driving
from sweep.store.storage import is_bucket, mirrored, root_of
from sweep.store.tracking import Tracker
from sweep.terminal.display import finish, say, showing
from sweep.tune.cluster import start_ray
from sweep.tune.levels import read_levels
from sweep.tune.report import report_on_test
from sweep.tune.tuner import Interrupted, run_trials
from sweep.views.board import make_board
from sweep.views.frontier import write_frontier
from sweep.views.render import as_text, best_of, write_board
from trainables.activity import tell
from trainables.cache import make_writable
from trainables.checkpoint import read_checkpoint
from trainables.listener import hearing
from trainables.model.dtype import with_dtype
from trainables.selection import SELECTION, read_selection
from trainables.workbench import Materials, find_materials

_PYTHON = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else sys.executable
"""How to call this interpreter from here, such as ``.venv/bin/python``."""
_EXPORTED = "exported"
"""Directory that the printed export command writes."""


def run_sweep(
    space: SpaceConfig,
    storage: Path,
    tracking_uri: str,
    address: str | None = None,
    optuna_storage: str | None = None,
    retry_failed: bool = False,
) -> int:
    """Run the rest of a sweep (a grid or a search) and print its board.

    Args:
        space: what to run; finished work in its folder is not repeated.
        storage: directory of all results.
        tracking_uri: of MLflow.
        address: Ray cluster; by default Ray on this machine.
        optuna_storage: URL of a database that receives a copy of a search's study.
        retry_failed: retry failed trials from their last saved state.

    Returns:
        Exit status: 0 all trials finished, 1 some failed, 130 stopped before the end.

    Raises:
        SponError: if the space does not fit the model, the corpus, the machine or the storage.
    """
    started = time.monotonic()
    before = began(storage, space.name)
    space, decision = with_dtype(space, before)
    if before is not None:
        space = _at_commits(space, before.model.revision, before.corpus.revision)
    check_sweep(storage, space)
    say(decision)
    tell("finding the model and the text")
    space, materials = _found(space)
    known, (shape, prints) = without_measured(space), (materials.shape, materials.fingerprints)
    resolve_grid(known, shape, prints)
    _check_same(SweepFolder(storage / space.name), prints)
    if space.search is not None:
        check_search(known, shape)
    tell("starting Ray")
    start_ray(space.resources, address)
    _check_outlasts(storage)
    folder = SweepFolder(storage / space.name)
    make_writable(folder.path)  # only now, so that a space that cannot run leaves its name free
    with driving(folder.path), mirrored(folder.path) as copy_now:
        create_sweep(storage, space)
        copy_now()  # so that a driver elsewhere can resume it
        say(f"{folder.name}: results in {folder.path}")
        for trial in _failed(folder) if retry_failed else []:
            trial.retry()
        try:
            with _heard(folder):
                _run(folder, materials, tracking_uri, optuna_storage)
        except (Interrupted, KeyboardInterrupt) as stopped:
            Tracker(tracking_uri, folder).stop()
            say(f"stopped: {str(stopped) or 'by Ctrl-C'}; resume with: {_command('sweep resume', folder)}")
            return 130
        result = _publish(folder, tracking_uri)
    tell("stopping Ray")
    ray.shutdown()
    finish()
    print(result + _closing(folder, tracking_uri, time.monotonic() - started))
    return 1 if _failed(folder) else 0


def _found(space: SpaceConfig) -> tuple[SpaceConfig, Materials]:
    """Find the model and the text of a space, and pin the space to their commits."""
    text = space.corpus.revision
    if space.corpus.on_hub:
        from trainables.text.documents import text_commit  # imports datasets, which takes a second

        text = text_commit(space.corpus)
    materials = find_materials(space.model, _at_commits(space, None, text).corpus)
    return _at_commits(space, materials.model.revision, text), materials


def _at_commits(space: SpaceConfig, model: str | None, text: str | None) -> SpaceConfig:
    """Pin a space to hub commits where it names none, so that all workers, and a resume, load the same."""
    commits = (("model", space.model, model), ("corpus", space.corpus, text))
    pinned = {key: one.model_copy(update={"revision": one.revision or commit}) for key, one, commit in commits}
    return space.model_copy(update=pinned)


@contextmanager
def _heard(folder: SweepFolder) -> Iterator[None]:
    """Show what the workers of a sweep do while the block runs, on the terminal and in its folder."""
    display = showing()
    if display is None:
        yield
        return
    display.keep_in(folder.path)
    with hearing(folder.ear) as ask, display.asking(ask):
        yield


def _failed(folder: SweepFolder) -> list[TrialFolder]:
    """Return the failed trials, including auxiliary ones."""
    return [trial for trial in folder.trials if trial.state == "failed"]


def _run(folder: SweepFolder, materials: Materials, tracking_uri: str, optuna_storage: str | None) -> None:
    """Measure what must be measured first, and run the grid or the search."""
    shape, prints = materials.shape, materials.fingerprints
    try:
        spaces = Measurement(folder, materials, tracking_uri).spaces()
    except NotMeasured as why:
        say(f"the masks cannot be ranked: {why}")
        return
    if folder.space.search is not None:
        Search(folder, spaces[0], shape, prints, tracking_uri, optuna_storage).run()
    else:
        grids = [resolve_grid(one, shape, prints) for one in spaces]
        trials = [trial for grid, _ in grids for trial in grid]
        say(f"grid: {len(trials)} trials")
        tell("starting workers")
        for name, known in {pair for _, others in grids for pair in others.items()}:
            say(f"{name} is the same mask as {known} and is trained once")
        speed = run_trials(folder, shape, trials, tracking_uri, with_test=True)
        report_on_test(folder, shape, [folder.trial(trial) for trial in trials], speed)


def _check_same(folder: SweepFolder, prints: Fingerprints) -> None:
    """Refuse to resume with a model or text other than the sweep's own."""
    for trial in folder.trials[:1]:
        if Fingerprints(trial.config.model_fingerprint, trial.config.corpus_fingerprint) != prints:
            began = "the model and the text that it began with"
            raise SponError(f"a sweep must resume with {began}, but they have changed (at {folder.path})")


def _check_outlasts(storage: Path) -> None:
    """Refuse a relative storage in a Ray job, whose working directory is a copy on one node that Ray deletes."""
    if "working_dir" in ray.get_runtime_context().runtime_env and not (storage.is_absolute() or is_bucket(storage)):
        raise SponError(f"a job's storage must be an absolute path, but got {storage} (at --storage)")


def _publish(folder: SweepFolder, tracking_uri: str) -> str:
    """Write the board, send it to MLflow, and return the text to print."""
    tell("drawing the board")
    table, findings = _written_board(folder) if folder.results else "", folder.path / FINDINGS
    tell("sending results to MLflow")
    Tracker(tracking_uri, folder).sync_all()
    if folder.space.search is not None:
        table = findings.read_text().rstrip() if findings.exists() else ""
    return f"\n{table}\n\n" if table else ""


def _written_board(folder: SweepFolder) -> str:
    """Write the board and, if levels were measured, the frontier. Return the summary to print."""
    board, levels = make_board(folder), read_levels(folder)
    write_board(board, folder.path)
    if levels is not None:
        return write_frontier(folder, board, levels)
    best = best_of(board)
    rest = f"\nthe best of each plan; all {len(board)} trials are in board.txt" if len(best) < len(board) else ""
    return as_text(best) + rest


def _closing(folder: SweepFolder, tracking_uri: str, seconds: float) -> str:
    """Format the time taken, the failures and the next commands, one per line."""
    lines = [f"{folder.name} took {seconds / 60:.1f} min; table, figure and checkpoints are in {folder.path}"]
    if failed := _failed(folder):
        lines.append(f"{len(failed)} trials FAILED:")
        lines += [f"  {trial.path.name}: {trial.failure}" for trial in failed]
    ui = tracking_uri
    if not tracking_uri.startswith("http"):
        ui = f"{_PYTHON} -m mlflow ui --backend-store-uri {quote(tracking_uri)}"
    lines.append(f"compare in MLflow:  {ui}")
    best = _best(folder)
    if best is not None:
        lines.append(f"analyse the best:   {_command('analysis interpret --sweep', folder)} --top 2")
        lines.append(f"use the best one:   {_PYTHON} -m analysis export {quote(str(best))} {_EXPORTED}")
    return "\n".join(lines)


def _best(folder: SweepFolder) -> Path | None:
    """Return the checkpoint that recovers the largest share of TEAL's validation KL.

    After a search, only its chosen masks count. None if no finished trial has biases.
    """
    paths, file = [trial.checkpoint_path for trial in folder.results], folder.path / SELECTION
    if file.exists():
        masks = [mask for mask in read_selection(file).masks if mask.role == "chosen"]
        paths = [folder.path / place for mask in masks for place in mask.checkpoints]
    metas = {path: read_checkpoint(path).meta for path in paths}
    recovered = {path: meta.metrics["val_kl_recovered"] for path, meta in metas.items() if meta.config.sites}
    return max(recovered, key=recovered.__getitem__, default=None)


def _command(command: str, folder: SweepFolder) -> str:
    """Format a command line for the sweep. An analysis reads the driver's copy of a bucket."""
    home = folder.path.parent
    storage = root_of(home) if is_bucket(home) and command.startswith("sweep") else str(home)
    return f"{_PYTHON} -m {command} {folder.name}" + ("" if storage == "runs" else f" --storage {quote(storage)}")
