"""The proposal stage of a search: Ray Tune scores each mask on the proxy, or trains it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search_spaces.errors import SponError
from search_spaces.search import search_of
from search_spaces.trial import TrialConfig
from sweep.search.mask_log import MaskRecord
from sweep.search.mask_search import MaskSearch
from sweep.search.task import ScoredMasks, Task
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder
from sweep.terminal.display import follow, say
from sweep.terminal.view import Standing
from sweep.tune.callback import SweepCallback
from sweep.tune.cluster import at_once
from sweep.tune.nodes import Nodes, reason
from sweep.tune.progress import Progress
from sweep.tune.scheduler import Halving, InTurn
from sweep.tune.tuner import Interrupted, drop_done_states, fit, grid_space
from trainables.activity import Activity
from trainables.ray_trainable import FAILURE, NODE, SponTrainable

_BEST_SECONDS = 10.0
"""Interval between updates of the best mask."""
_ENDLESS = 10**6
"""More validations than any training run has."""


class MaskCallback(tune.Callback):
    """Writes scores to the mask log and shows progress: masks scored, best so far, known masks, time left.

    Args:
        masks: evaluates the masks.
        n_masks: budget.
        nodes: of the sweep.
        counts: file of a searcher's counts. None if all masks are given.

    Attributes:
        failure: reason of the last failed mask, or empty.
    """

    def __init__(self, masks: ScoredMasks, n_masks: int, nodes: Nodes, counts: Path | None = None) -> None:
        self._log, self._blocks = masks.log, masks.rungs[-1]
        self._n_masks, self._nodes, self._counts = n_masks, nodes, counts
        self.failure = ""

    def setup(self, *args: Any, **info: Any) -> None:
        """Make the display in the driver follow this callback."""
        self._first, self._over, self._best, self._told = 0.0, 0, "", 0.0
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
        self._over += 1
        if self._over == 1:
            self._first = now
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
        done = counts.over if counts else self._over
        known, best = f"; {counts.set_aside}" if counts else "", f", best {self._best}" if self._best else ""
        left = None
        if self._over > 1:
            left = (time.monotonic() - self._first) / (self._over - 1) * max(0, self._n_masks - done)
        return Standing(f"{done} of {self._n_masks} masks{best}{known}", done / max(1, self._n_masks), left)


def score_masks(folder: SweepFolder, stage: str, masks: ScoredMasks, trials: Sequence[TrialConfig]) -> None:
    """Score the given masks on the last rung of the proxy, except those in the log, or resume that.

    Raises:
        Interrupted: if it was stopped.
        SponError: if a mask could not be scored.
    """
    new = [trial for trial in trials if masks.known(trial) is None]
    if not new:
        return
    jobs = {job.pop("name"): job for job in map(masks.job, new)}
    callback = MaskCallback(masks, len(jobs), Nodes(folder.space.resources))
    fit(folder, stage, masks.trainable, grid_space(jobs), callback, tune.TuneConfig())
    if callback.failure:
        raise SponError(f"each mask must be scored, but {callback.failure} (at search.proxy)")
    left = sum(masks.known(trial) is None for trial in trials)
    if left:
        raise Interrupted(f"{stage}, {left} masks to go")


def propose(folder: SweepFolder, task: Task, tracking_uri: str) -> None:
    """Run or resume the stage of proposals.

    Raises:
        Interrupted: if it was stopped.
    """
    resources, masks, n_masks = task.space.resources, task.masks, search_of(task.space).n_masks
    searcher, most, nodes = MaskSearch(task, folder.journal), at_once(resources), Nodes(resources)
    config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=_scheduler(folder, task, searcher),
        num_samples=-1,  # until the searcher has no more
        max_concurrent_trials=most,  # more would be suggested before earlier results are told
    )
    if isinstance(masks, ScoredMasks):
        fit(folder, "propose", masks.trainable, {}, MaskCallback(masks, n_masks, nodes, task.counts), config)
    else:
        progress = Progress(task.shape, [], most, n_trials=n_masks, counts=task.counts)
        callback = SweepCallback(folder, progress, tracking_uri, nodes, searches=True)
        fit(folder, "propose", SponTrainable, {}, callback, config)
    if not Counts.read(task.counts).done:
        raise Interrupted("propose, masks to go")
    drop_done_states(folder)


def _scheduler(folder: SweepFolder, task: Task, searcher: MaskSearch) -> TrialScheduler:
    """Ray's scheduler. Each rung of the proxy, or validation of a training run, is one iteration.

    It starts with the results of masks that the searcher gave out and that finished or were stopped. Other masks are
    evaluated again, and trials of measurements or other sweeps never met the scheduler.
    """
    stopping, resources, masks = search_of(task.space).stopping, task.space.resources, task.masks
    if stopping is None:
        return InTurn(resources)
    if isinstance(masks, ScoredMasks):
        rungs, log = masks.rungs, masks.log
        over = searcher.stopped | {record.trial.identity for record in log.on(rungs[-1])}
        records = ((mask, blocks, record.kl_nats) for (mask, blocks), record in log.records.items() if mask in over)
        return Halving(resources, stopping, len(rungs), [(mask, rungs.index(n) + 1, kl) for mask, n, kl in records])
    ended = (trial for trial in folder.trials if trial.state in ("finished", "stopped"))
    trained = [(t.path.name, t.progress) for t in ended if t.config.identity in searcher.given]
    known = [(name, n, v["val_kl_nats"]) for name, progress in trained for n, v in enumerate(progress, start=1)]
    return Halving(resources, stopping, _ENDLESS, known)
