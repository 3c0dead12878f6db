"""The proposal stage of a search: Ray Tune scores each mask on the proxy, or trains it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search_spaces.errors import SponError
from search_spaces.search import search_of
from search_spaces.trial import TrialConfig
from sweep.search.mask_log import MaskLog, MaskRecord
from sweep.search.mask_search import MaskSearch
from sweep.search.task import Task, Values
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder
from sweep.store.ledger import Ledger
from sweep.store.storage import states_in
from sweep.terminal.display import follow, say
from sweep.terminal.view import Standing
from sweep.tune.callback import SweepCallback
from sweep.tune.cluster import at_once
from sweep.tune.nodes import Nodes, reason
from sweep.tune.progress import Progress
from sweep.tune.scheduler import Halving, InTurn
from sweep.tune.tuner import Interrupted, drop_done_states, fit, grid_space
from trainables.activity import Activity
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import FAILURE, NODE, MaskTrainable, SponTrainable

_BEST_SECONDS = 10.0
"""Interval between updates of the best mask."""
_METRIC = "val_kl_nats"
_ENDLESS = 10**6
"""More validations than any training run has."""


@dataclass(frozen=True)
class TrainedMasks:
    """Evaluates masks by training them.

    Attributes:
        folder: of the sweep.
        objectives: of the search.
    """

    folder: SweepFolder
    objectives: tuple[str, ...]

    def known(self, trial: TrialConfig, blocks: int) -> Values | None:
        """The objectives of a trial that was trained before, here or in another sweep."""
        found = Ledger(self.folder).adopt(trial)
        if found is None:
            return None
        found.include()
        metrics = read_checkpoint(found.checkpoint_path).meta.metrics | {"n_spon_params": float(trial.n_spon_params)}
        return tuple(metrics[name] for name in self.objectives)

    def job(self, trial: TrialConfig, rungs: tuple[int, ...]) -> dict[str, Any]:
        """The config of ``SponTrainable``."""
        return {"name": trial.name, **self.folder.job(trial, self._states)}

    @cached_property
    def _states(self) -> dict[str, list[str]]:
        return states_in(self.folder.tune)


@dataclass(frozen=True)
class ScoredMasks:
    """Evaluates masks on the proxy.

    Attributes:
        log: of the scores.
        shared: folder of the checkpoint of the shared biases, on the driver's disk.
        objectives: of the search.
    """

    log: MaskLog
    shared: Path
    objectives: tuple[str, ...]

    def known(self, trial: TrialConfig, blocks: int) -> Values | None:
        """The objectives of a mask that was scored on this many blocks before."""
        record = self.log.records.get((trial.identity, blocks))
        if record is None:
            return None
        values = {"val_kl_nats": record.kl_nats, "n_spon_params": float(trial.n_spon_params)}
        return tuple(values[name] for name in self.objectives)

    def job(self, trial: TrialConfig, rungs: tuple[int, ...]) -> dict[str, Any]:
        """The config of ``MaskTrainable``."""
        name = f"{trial.name}_{'-'.join(map(str, rungs))}"
        return {"name": name, "trial": trial.model_dump(mode="json"), "rungs": list(rungs)}

    @property
    def trainable(self) -> type[tune.Trainable]:
        """The trainable that scores masks, with the shared biases in Ray's object store."""
        with_shared: type[tune.Trainable] = tune.with_parameters(MaskTrainable, shared=read_checkpoint(self.shared))
        return with_shared


class MaskCallback(tune.Callback):
    """Writes scores to the mask log and shows progress: masks scored, best so far, known masks, time left.

    Args:
        log: of the masks.
        blocks: validation blocks of a full score.
        n_masks: budget.
        nodes: of the sweep.
        counts: file of a searcher's counts. None if all masks are given.

    Attributes:
        failure: reason of the last failed mask, or empty.
    """

    def __init__(self, log: MaskLog, blocks: int, n_masks: int, nodes: Nodes, counts: Path | None = None) -> None:
        self._log, self._blocks, self._n_masks, self._nodes, self._counts = log, blocks, n_masks, nodes, counts
        self.failure = ""

    def setup(self, *args: Any, **info: Any) -> None:
        """Make the display in the driver follow this callback."""
        self._first: float | None = None
        self._over, self._best, self._told = 0, "", 0.0
        follow(self)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a score."""
        if FAILURE in result:
            self._failed(trial, str(result[FAILURE]))
            return
        self._nodes.worked(result[NODE])
        config = TrialConfig.model_validate(trial.config["trial"])
        scores = (float(result["val_kl_nats"]), float(result["val_nll_nats"]))
        blocks, seconds = tuple(result["block_kl_nats"]), float(result["time_this_iter_s"])
        self._log.add(MaskRecord(config, int(result["blocks"]), *scores, blocks, seconds))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Count the mask, or start the clock at the first one, and update the best so far at intervals."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
        else:
            self._over += 1
        if now - self._told > _BEST_SECONDS:
            best = min(self._log.on(self._blocks), key=lambda record: record.kl_nats, default=None)
            self._best = f"KL {best.kl_nats:.5f} nats ({best.trial.allocation})" if best else ""
            self._told = time.monotonic()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Report that Ray restarts a mask."""
        if out := self._nodes.recovered(trial):
            say(out)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Report a mask that Ray gave up on."""
        _, out = self._nodes.gave_up(trial)
        self._failed(trial, reason(trial))
        if out:
            say(out)

    def _failed(self, trial: Trial, why: str) -> None:
        self.failure = why
        say(f"FAILED {trial.config['name']}  {why}")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Report the final standing."""
        say(self.standing().text)
        follow(None)

    def heard(self, who: str, activity: Activity, now: float) -> None:
        """Ignore worker activity, because a mask takes only seconds."""

    def standing(self) -> Standing:
        """Progress of the masks."""
        counts = Counts.read(self._counts) if self._counts else None
        done = counts.over if counts else self._over + (self._first is not None)
        known, best = f"; {counts.set_aside}" if counts else "", f", best {self._best}" if self._best else ""
        to_go, left = self._n_masks - done, None
        if self._first is not None and self._over:
            left = (time.monotonic() - self._first) / self._over * max(0, to_go)
        return Standing(f"{done} of {self._n_masks} masks{best}{known}", done / max(1, self._n_masks), left)


def score_masks(
    folder: SweepFolder, stage: str, masks: ScoredMasks, trials: Sequence[TrialConfig], blocks: int
) -> None:
    """Score the given masks on the proxy, except those in the log, or resume that.

    Raises:
        Interrupted: if it was stopped.
        SponError: if a mask could not be scored.
    """
    new = [trial for trial in trials if masks.known(trial, blocks) is None]
    if not new:
        return
    jobs = {job.pop("name"): job for job in (masks.job(trial, (blocks,)) for trial in new)}
    callback = MaskCallback(masks.log, blocks, len(jobs), Nodes(folder.space.resources))
    fit(folder, stage, masks.trainable, grid_space(jobs), callback, tune.TuneConfig())
    if callback.failure:
        raise SponError(f"each mask must be scored, but {callback.failure} (at search.proxy)")
    left = sum(masks.known(trial, blocks) is None for trial in trials)
    if left:
        raise Interrupted(f"{stage}, {left} masks to go")


def propose(folder: SweepFolder, stage: str, task: Task, tracking_uri: str, scored: ScoredMasks | None) -> None:
    """Run or resume the search itself.

    Args:
        folder: of the sweep.
        stage: name of Ray's state.
        task: what is searched, and how masks are evaluated.
        tracking_uri: of MLflow.
        scored: scores masks on the proxy. None if masks are trained.

    Raises:
        Interrupted: if it was stopped.
    """
    search = search_of(task.space)
    searcher = MaskSearch(task, folder.journal)
    config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=_scheduler(folder, task, scored.log if scored else None, searcher),
        num_samples=-1,  # until the searcher has no more
        max_concurrent_trials=at_once(task.space.resources),  # more would be suggested before earlier results are told
    )
    nodes = Nodes(task.space.resources)
    if scored is not None:
        masks: tune.Callback = MaskCallback(scored.log, task.full, search.n_masks, nodes, task.counts)
        fit(folder, stage, scored.trainable, {}, masks, config)
    else:
        most = at_once(task.space.resources)
        progress = Progress(task.shape, [], most, n_trials=search.n_masks, counts=task.counts)
        trials = SweepCallback(folder, progress, tracking_uri, nodes, searches=True)
        fit(folder, stage, SponTrainable, {}, trials, config)
    if not Counts.read(task.counts).done:
        raise Interrupted(f"{stage}, masks to go")
    drop_done_states(folder)


def _scheduler(folder: SweepFolder, task: Task, log: MaskLog | None, searcher: MaskSearch) -> TrialScheduler:
    """Ray's scheduler. Each rung of the proxy, or validation of a training run, is one iteration.

    It starts with the results of masks that the searcher gave out and that finished or were stopped. Other masks are
    evaluated again, and trials of measurements or other sweeps never met the scheduler.
    """
    search, resources = search_of(task.space), task.space.resources
    if search.stopping is None:
        return InTurn(resources)
    if log is not None:
        over = searcher.stopped | {record.trial.identity for record in log.on(task.full)}
        records = [(mask, blocks, r.kl_nats) for (mask, blocks), r in log.records.items() if mask in over]
        known = [(mask, task.rungs.index(blocks) + 1, kl) for mask, blocks, kl in records]
        return Halving(resources, search.stopping, len(task.rungs), known)
    ended = (trial for trial in folder.trials if trial.state in ("finished", "stopped"))
    trained = [(t.path.name, t.progress) for t in ended if t.config.identity in searcher.given]
    known = [(name, n, v[_METRIC]) for name, progress in trained for n, v in enumerate(progress, start=1)]
    return Halving(resources, search.stopping, _ENDLESS, known)
