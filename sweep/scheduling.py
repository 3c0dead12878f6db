"""Ray's schedulers, in which a free worker takes a trial for which no worker is being started.

Ray asks for a worker for each trial that waits. A worker that is free then gets the trial that has waited longest, and
the worker that is being started for that one is ended. Where trials end faster than workers start, those of new nodes
would be ended before they are ready, again and again.
"""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule


class _SparesStarting(FIFOScheduler):
    """Mixed into a scheduler that otherwise takes trials in order."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first trial that waits and whose worker is not being started; without one, Ray's own choice."""
        controller = tune_controller._tune_controller
        trials: list[Trial] = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.PENDING:
                worker = controller._trial_to_actor.get(trial)
                if worker is None or not controller._actor_manager.is_actor_started(worker):
                    return trial
        chosen: Trial | None = super().choose_trial_to_run(tune_controller)
        return chosen


class InOrder(_SparesStarting, FIFOScheduler):
    """No trial is stopped."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's


class Halving(_SparesStarting, ASHAScheduler):
    """Asynchronous successive halving."""


class BelowMedian(_SparesStarting, MedianStoppingRule):
    """A trial below the median of the others is stopped."""
