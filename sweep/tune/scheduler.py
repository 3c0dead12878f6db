"""Ray's schedulers, with their own choice of trial for a free worker, and a memory of earlier scores."""

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search_spaces.config import Asha, ResourcesConfig
from sweep.tune.nodes import places

_METRIC = "val_kl_nats"
_COUNT_SECONDS = 2.0
"""Time between counts of places, each of which asks the head of the cluster."""


class _Patient(TrialScheduler):
    """Gives a free worker a trial for which no other worker is starting.

    Ray itself picks the first waiting trial, ends the worker that is starting for it, and starts one for another trial.
    If trials end faster than workers start, most workers never finish starting.
    """

    resources: ResourcesConfig
    _places, _counted = 0, 0.0

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Pass over the trials that have waited longest, one for each place whose worker is still starting."""
        trials = tune_controller.get_trials()
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if not waiting:
            return None
        running = sum(trial.status == Trial.RUNNING for trial in trials)
        passed_over = max(0, self._places_now() - running - 1)  # one worker is free
        chosen: Trial = waiting[min(passed_over, len(waiting) - 1)]
        return chosen

    def _places_now(self) -> int:
        now = time.time()
        if not 0 <= now - self._counted < _COUNT_SECONDS:
            self._places, self._counted = places(self.resources), now
        return self._places


class InTurn(_Patient, FIFOScheduler):
    """Runs all trials to their end."""

    def __init__(self, resources: ResourcesConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.resources = resources


class Halving(_Patient, ASHAScheduler):
    """Ends poor masks early. Ray keeps no rungs over a restart (ray#30838), so earlier scores are replayed to it.

    Args:
        resources: of a trial.
        asha: settings of the space.
        n_rungs: most rungs of a proxy, or validations of a training.
        known: earlier scores in their order: who was scored, at which rung (from 1), and the KL there.
    """

    def __init__(
        self, resources: ResourcesConfig, asha: Asha, n_rungs: int, known: Iterable[tuple[str, int, float]]
    ) -> None:
        super().__init__(
            metric=_METRIC,
            mode="min",
            max_t=n_rungs,
            grace_period=1,
            reduction_factor=asha.reduction_factor,
        )
        self.resources = resources
        no_controller: Any = None
        for who, rung, kl in known:
            before: Any = SimpleNamespace(trial_id=f"before-{who}")
            if rung == 1:
                self.on_trial_add(no_controller, before)
            self.on_trial_result(no_controller, before, {"training_iteration": rung, _METRIC: kl})
