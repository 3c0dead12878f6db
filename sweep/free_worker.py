"""Which trial a worker gets when it is free."""

import time

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search_spaces.schema import ResourcesConfig
from sweep.cluster import places

_COUNT_SECONDS = 2.0
"""Between two times that places are counted, which asks the head of the cluster."""


def patient(scheduler: TrialScheduler, resources: ResourcesConfig) -> TrialScheduler:
    """A scheduler of Ray's that gives a free worker a trial for which no other is being started.

    Its own choice is the first trial that waits. Ray ends the worker that is being started for that one, and starts
    another for another trial: where trials end faster than workers start, most workers never come to be there.

    Args:
        scheduler: one that never pauses a trial.
        resources: of a trial.
    """
    scheduler.choose_trial_to_run = _Choice(resources)  # type: ignore[method-assign]
    return scheduler


class _Choice:
    """Passes over the trials that have waited longest, one for each place whose worker is not there yet."""

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources, self._places, self._counted = resources, 0, 0.0

    def __call__(self, tune_controller: TuneController) -> Trial | None:
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
            self._places, self._counted = places(self._resources), now
        return self._places
