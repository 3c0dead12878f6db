"""The stage of a search in which masks are proposed: each is scored on the proxy, or trained, through Ray Tune."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from search_spaces.schema import TrialConfig
from search_spaces.search import search_of
from search_spaces.search_config import EvolutionConfig
from search_spaces.search_stages import Asha, Median
from sweep.callback import SweepCallback
from sweep.cluster import at_once
from sweep.folder import SweepFolder
from sweep.search.evolution_search import EvolutionSearch
from sweep.search.ledger import Ledger
from sweep.search.mask_log import MaskLog, MaskRecord
from sweep.search.mask_search import MaskSearch
from sweep.search.task import Counts, Task, Values
from sweep.tuner import Interrupted, fit, grid_space
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import FAILURE, MaskTrainable, SponTrainable

_BEAT_SECONDS = 10.0
_METRIC = "val_kl_nats"


@dataclass(frozen=True)
class TrainedMasks:
    """Masks that are evaluated by training them.

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
        metrics = read_checkpoint(found.checkpoint_path).meta.metrics | {"n_spon_params": float(trial.n_spon_params)}
        return tuple(metrics[name] for name in self.objectives)

    def job(self, trial: TrialConfig, rungs: tuple[int, ...]) -> dict[str, Any]:
        """The config of ``SponTrainable``."""
        return {"name": trial.name, **self.folder.job(trial)}


@dataclass(frozen=True)
class ScoredMasks:
    """Masks that are evaluated on the proxy.

    Attributes:
        log: of what was scored.
        shared: directory of the shared biases, by the plan as JSON.
        objectives: of the search.
    """

    log: MaskLog
    shared: dict[str, str]
    objectives: tuple[str, ...]

    def known(self, trial: TrialConfig, blocks: int) -> Values | None:
        """The objectives of a mask that was scored on as many blocks before."""
        record = self.log.records.get((trial.identity, blocks))
        if record is None:
            return None
        values = {"val_kl_nats": record.kl_nats, "n_spon_params": float(trial.n_spon_params)}
        return tuple(values[name] for name in self.objectives)

    def job(self, trial: TrialConfig, rungs: tuple[int, ...]) -> dict[str, Any]:
        """The config of ``MaskTrainable``."""
        name = f"{trial.name}_{'-'.join(map(str, rungs))}"
        shared = self.shared[trial.plan.model_dump_json()]
        return {"name": name, "trial": trial.model_dump(mode="json"), "shared": shared, "rungs": list(rungs)}


class MaskCallback(tune.Callback):
    """Writes scores to the mask log and prints how it goes: masks scored, best so far, known ones, time left.

    Args:
        log: of the masks.
        blocks: validation blocks of a full score.
        n_masks: budget.
        counts: file of a searcher's counts; without it, all masks are given.
    """

    def __init__(self, log: MaskLog, blocks: int, n_masks: int, counts: Path | None = None) -> None:
        self._log, self._blocks, self._n_masks, self._counts = log, blocks, n_masks, counts

    def setup(self, *args: Any, **info: Any) -> None:
        """Begin the clock, in the driver that runs the search."""
        self._begun, self._last, self._over = time.monotonic(), 0.0, 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("_log", "_blocks", "_n_masks", "_counts")}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a score."""
        if FAILURE in result:
            print(f"FAILED {trial.config['name']}  {result[FAILURE]}", flush=True)
            return
        config = TrialConfig.model_validate(trial.config["trial"])
        scores = (float(result["val_kl_nats"]), float(result["val_nll_nats"]))
        self._log.add(MaskRecord(config, int(result["blocks"]), *scores, float(result["time_this_iter_s"])))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Print how it goes, now and then."""
        self._over += 1
        if time.monotonic() - self._last > _BEAT_SECONDS:
            self._print()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Print how it ended."""
        self._print()

    def _print(self) -> None:
        spent = time.monotonic() - self._begun
        self._last = self._begun + spent
        done, known = self._over, ""
        if self._counts is not None:
            counts = Counts.read(self._counts)
            done = counts.over
            known = f"; {counts.set_aside}"
        best = min(self._log.on(self._blocks), key=lambda record: record.kl_nats, default=None)
        found = f", best KL {best.kl_nats:.5f} nats ({best.trial.allocation})" if best else ""
        to_go = self._n_masks - done
        left = f", about {spent / self._over * to_go / 60:.0f} min left" if self._over and to_go > 0 else ""
        minutes, seconds = divmod(int(spent), 60)
        print(f"{minutes:3d}:{seconds:02d}  {done} of {self._n_masks} masks{found}{known}{left}", flush=True)


def score_masks(
    folder: SweepFolder, stage: str, masks: ScoredMasks, trials: Sequence[TrialConfig], blocks: int
) -> None:
    """Score given masks on the proxy, those that the log does not have, or go on with that.

    Raises:
        Interrupted: if it was stopped, or a mask could not be scored.
    """
    new = [trial for trial in trials if masks.known(trial, blocks) is None]
    if not new:
        return
    jobs = {job.pop("name"): job for job in (masks.job(trial, (blocks,)) for trial in new)}
    callback = MaskCallback(masks.log, blocks, len(jobs))
    fit(folder, stage, MaskTrainable, grid_space(jobs), callback, len(jobs), tune.TuneConfig())
    left = sum(masks.known(trial, blocks) is None for trial in trials)
    if left:
        raise Interrupted(f"{stage}, {left} masks to go")


def propose(folder: SweepFolder, stage: str, task: Task, tracking_uri: str, log: MaskLog | None) -> None:
    """Run, or go on with, the search itself.

    Args:
        folder: of the sweep.
        stage: names Ray's state of it.
        task: what is searched, and how masks are evaluated.
        tracking_uri: of MLflow.
        log: of the masks that the proxy scores; none where masks are trained.

    Raises:
        Interrupted: if it was stopped.
    """
    search = search_of(task.space)
    evolves = isinstance(search.algorithm, EvolutionConfig)
    searcher: Searcher = EvolutionSearch(task) if evolves else MaskSearch(task, folder.journal)
    config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=_scheduler(search.stopping, len(task.rungs)),
        num_samples=1_000_000_000 if evolves else search.n_masks,  # evolution ends itself, at the end of a generation
        max_concurrent_trials=at_once(task.space.resources),  # more would be asked for before others are told
    )
    if log is not None:
        masks: tune.Callback = MaskCallback(log, task.full, search.n_masks, task.counts)
        fit(folder, stage, MaskTrainable, {}, masks, search.n_masks, config)
    else:
        trials = SweepCallback(folder, tracking_uri, search.n_masks, task.counts)
        fit(folder, stage, SponTrainable, {}, trials, search.n_masks, config)
    if not Counts.read(task.counts).done:
        raise Interrupted(f"{stage}, masks to go")
    folder.drop_states()


def _scheduler(stopping: Asha | Median | None, n_rungs: int) -> TrialScheduler:
    """Ray's scheduler; a rung of the proxy, or a validation of a training, is an iteration."""
    most = n_rungs or 10**6
    match stopping:
        case Asha(grace_period=grace, reduction_factor=factor):
            return ASHAScheduler(metric=_METRIC, mode="min", max_t=most, grace_period=grace, reduction_factor=factor)
        case Median(grace_period=grace, min_samples=samples):
            return MedianStoppingRule(
                time_attr="training_iteration",
                metric=_METRIC,
                mode="min",
                grace_period=grace,
                min_samples_required=samples,
            )
        case None:
            return FIFOScheduler()
