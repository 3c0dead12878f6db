"""The final report, which alone opens a sweep's test split, once, for finished trials."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import ray
import torch

from search_spaces.config import SpaceConfig
from search_spaces.errors import NodeError
from search_spaces.sites import ModelShape
from sweep.store.folder import SweepFolder, TrialFolder
from sweep.terminal.display import follow, say
from sweep.terminal.view import Standing
from sweep.tune.cluster import answer, remotely
from sweep.tune.estimate import Work, report_flop, work_of
from sweep.tune.nodes import EXCUSED, places
from trainables.activity import Activity
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.listener import hush_up, speak
from trainables.quiet import hush
from trainables.trial import TEST_SCORING, report_test
from trainables.workbench import Workbench


class _TestReader:
    """A worker that may read the test split."""

    def __init__(self, space: SpaceConfig, ear: str, who: str) -> None:
        hush()
        torch.set_num_threads(space.resources.cpus_per_trial)
        self._space, self._ear, self._who = space, ear, who

    @cached_property
    def _bench(self) -> Workbench:
        speak(self._ear, self._who)
        return Workbench(self._space.model, self._space.corpus, self._space.resources.device, open_test=True)

    def report(self, checkpoint: Checkpoint) -> Checkpoint:
        """Add the test scores to a checkpoint."""
        bench = self._bench  # first, because it speaks for itself
        speak(self._ear, checkpoint.meta.config.name)
        try:
            return report_test(bench, checkpoint)
        finally:
            hush_up()


class _Scoring:
    """Progress of the test report.

    Args:
        works: work of the trials to score, by name.
        places: readers at once.
        speed: operations per second of one reader; None if unknown.

    Attributes:
        done: names of the scored trials.
    """

    def __init__(self, works: Mapping[str, Work], places: int, speed: float | None) -> None:
        self._works, self._places, self._speed = works, places, speed
        self._made: set[str] = set()
        self._parts: dict[str, float] = {}
        self.done: set[str] = set()

    def heard(self, who: str, activity: Activity, now: float) -> None:
        """Record what a reader does."""
        if activity.what == TEST_SCORING and activity.total and who in self._works:
            self._made |= self._works[who].test_shared.keys()
            self._parts[who] = activity.done / activity.total

    def standing(self) -> Standing:
        """Return how far the readers are."""
        done, all_ = set(self.done), len(self._works)
        left = [
            replace(work, test=work.test * (1 - self._parts.get(name, 0.0)))
            for name, work in self._works.items()
            if name not in done
        ]
        seconds = report_flop(left, self._places, self._made) / self._speed if self._speed else None
        return Standing(f"{len(done)} of {all_} trials scored on the test split", len(done) / all_, seconds)


def report_on_test(
    folder: SweepFolder, shape: ModelShape, trials: Sequence[TrialFolder], speed: float | None = None
) -> None:
    """Score finished trials on the test split and store the scores in their checkpoints. Skip scored ones.

    ``speed``, operations per second in one place, serves to estimate the time left.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    waiting = _by_turns([trial for trial in finished if "test.spon" not in _checkpoint(trial).scores])
    if not waiting:
        return
    started, readers = time.monotonic(), _readers(folder, len(waiting))
    say(f"scoring {len(waiting)} finished trials on the test split")
    scoring = _Scoring({t.path.name: work_of(t.config, shape) for t in waiting}, len(readers), speed)
    follow(scoring)
    for trial, checkpoint in _tested(readers, waiting):
        trial.add_test(checkpoint)
        scoring.done.add(trial.path.name)
    follow(None)
    say(f"scored in {time.monotonic() - started:.0f} s")


def _by_turns(trials: Sequence[TrialFolder]) -> list[TrialFolder]:
    """Order trials by turns of their plans, so that two readers seldom wait for the baseline of one plan."""
    turns = Counter[str]()

    def turn(trial: TrialFolder) -> int:
        plan = trial.config.plan.model_dump_json()
        turns[plan] += 1
        return turns[plan]

    return sorted(trials, key=turn)


def _tested(readers: Sequence[Any], trials: Sequence[TrialFolder]) -> Iterator[tuple[TrialFolder, Checkpoint]]:
    """Yield trials with their test scores. Each reader scores one at a time.

    A reader without work frees its place, because another may wait for one after a node is lost. If the node of a
    reader is at fault, the other readers do its work.

    Raises:
        NodeError: if the node of the last reader is at fault.
    """
    left, busy = deque(trials), dict[Any, tuple[Any, TrialFolder]]()

    def give(reader: Any) -> None:
        if left:
            trial = left.popleft()
            busy[reader.report.remote(_checkpoint(trial))] = reader, trial
        else:
            ray.kill(reader)

    for reader in readers:
        give(reader)
    while busy:
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        reader, trial = busy.pop(ready)
        try:
            checkpoint = answer(ready)
        except NodeError as fault:
            if not busy:
                raise
            say(f"a reader of the test split gives up: {fault}")
            left.append(trial)
            ray.kill(reader)
        else:
            yield trial, checkpoint
            give(reader)


def _checkpoint(trial: TrialFolder) -> Checkpoint:
    return read_checkpoint(trial.checkpoint_path)


def _readers(folder: SweepFolder, n_waiting: int) -> list[Any]:
    """Start a reader in each place for a trial, at most one for each waiting trial."""
    space = folder.space
    want = space.resources
    count = max(1, min(places(want), n_waiting))  # nodes may have gone since the trials ended
    lost = want.max_failures + EXCUSED  # a lost node may still get work until Ray notices
    reader = remotely(want, _TestReader).options(max_restarts=lost, max_task_retries=lost)
    return [reader.remote(space, folder.ear, f"reader {number}") for number in range(1, count + 1)]
