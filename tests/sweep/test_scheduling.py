"""Which trial a free worker takes, asked as Ray's controller asks."""

from types import SimpleNamespace

import pytest

from sweep.scheduling import BelowMedian, Halving, InOrder


class Cluster:
    """Trials by name and status, and which of their workers are being started (True) or only asked for (False)."""

    def __init__(self, statuses: dict[str, str], workers: dict[str, bool]) -> None:
        self._trials = [Named(name, status) for name, status in statuses.items()]
        by_name = {trial.name: trial for trial in self._trials}
        self._tune_controller = SimpleNamespace(
            _trial_to_actor={by_name[name]: starting for name, starting in workers.items()},
            _actor_manager=SimpleNamespace(is_actor_started=lambda starting: starting),
        )

    def get_trials(self) -> list["Named"]:
        return self._trials


class Named:
    def __init__(self, name: str, status: str) -> None:
        self.name, self.status = name, status


@pytest.mark.parametrize("scheduler", [InOrder(), Halving(), BelowMedian()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("statuses", "workers", "chosen"),
    [
        ({"a": "RUNNING", "b": "PENDING", "c": "PENDING"}, {"a": True, "b": True}, "c"),
        ({"a": "PENDING", "b": "PENDING", "c": "PENDING"}, {"a": True, "b": False, "c": False}, "b"),
        ({"a": "TERMINATED", "b": "PENDING"}, {"b": True}, "b"),  # the last one may as well be taken
        ({"a": "TERMINATED", "b": "RUNNING"}, {"b": True}, None),
    ],
)
def test_a_free_worker_takes_the_first_trial_whose_worker_is_not_being_started(
    scheduler: InOrder, statuses: dict[str, str], workers: dict[str, bool], chosen: str | None
) -> None:
    got = scheduler.choose_trial_to_run(Cluster(statuses, workers))
    assert (got and got.name) == chosen
