"""The final report: the test split is opened once, for trials that are done, and by nothing else."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch

from search_spaces.schema import SpaceConfig
from sweep.cluster import places, remotely
from sweep.folder import SweepFolder, TrialFolder
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.trial import report_test
from trainables.workbench import Workbench

_BEAT_SECONDS = 30.0


class _TestReader:
    """A worker that may read the test split."""

    def __init__(self, space: SpaceConfig) -> None:
        torch.set_num_threads(space.resources.cpus_per_trial)
        self._bench = Workbench(space.model, space.corpus, space.resources.device, open_test=True)

    def report(self, checkpoint: Checkpoint) -> Checkpoint:
        """Add the test scores."""
        return report_test(self._bench, checkpoint)


def report_on_test(folder: SweepFolder, trials: Sequence[TrialFolder]) -> None:
    """Score the finished ones of some trials on the test split, unless they were, and store it in their checkpoints."""
    finished = [trial for trial in trials if trial.state == "finished"]
    waiting = [trial for trial in finished if "test.spon" not in _checkpoint(trial).scores]
    if not waiting:
        return
    started = told = time.monotonic()
    print(f"scoring {len(waiting)} finished trials on the test split", flush=True)
    for done, (trial, checkpoint) in enumerate(_tested(_readers(folder.space, len(waiting)), waiting), start=1):
        trial.store(checkpoint)
        now = time.monotonic()
        if now - told > _BEAT_SECONDS:
            left = (now - started) / done * (len(waiting) - done)
            print(f"scored {done} of {len(waiting)}, about {left / 60:.0f} min left", flush=True)
            told = now
    print(f"scored in {time.monotonic() - started:.0f} s", flush=True)


def _tested(readers: Sequence[Any], trials: Sequence[TrialFolder]) -> Iterator[tuple[TrialFolder, Checkpoint]]:
    """Have trials scored, one by each reader at a time.

    A reader for whom nothing is left makes its place free: another may wait for one, where a node has gone.
    """
    left, busy = iter(trials), dict[Any, tuple[Any, TrialFolder]]()

    def give(reader: Any) -> None:
        trial = next(left, None)
        if trial is None:
            ray.kill(reader)
        else:
            busy[reader.report.remote(_checkpoint(trial))] = reader, trial

    for reader in readers:
        give(reader)
    while busy:
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        reader, trial = busy.pop(ready)
        yield trial, ray.get(ready)
        give(reader)


def _checkpoint(trial: TrialFolder) -> Checkpoint:
    return read_checkpoint(trial.checkpoint_path)


def _readers(space: SpaceConfig, n_waiting: int) -> list[Any]:
    """As many workers as there are places for trials."""
    want = space.resources
    count = max(1, min(places(want), n_waiting))  # nodes may have gone since the trials ended
    lost = want.max_failures  # a node that is gone may still get work until Ray has noticed
    reader = remotely(want, _TestReader).options(max_restarts=lost, max_task_retries=lost)
    return [reader.remote(space) for _ in range(count)]
