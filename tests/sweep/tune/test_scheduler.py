"""A free worker and one that is being started, by themselves and through real Ray."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from search_spaces.config import Asha, ResourcesConfig
from search_spaces.load import parse_space
from sweep.store.folder import create_sweep
from sweep.tune import scheduler
from sweep.tune.cluster import start_ray
from sweep.tune.scheduler import Halving, InTurn
from sweep.tune.tuner import fit

START_SECONDS = 60


def choose(states: tuple[str, ...], times: int = 1) -> list[int | None]:
    """Which of the trials in these states a free worker gets, asked so many times."""
    trials = [SimpleNamespace(status=state) for state in states]
    in_turn, controller = InTurn(ResourcesConfig()), SimpleNamespace(get_trials=lambda: trials)
    chosen = [in_turn.choose_trial_to_run(controller) for _ in range(times)]
    return [next((i for i, trial in enumerate(trials) if trial is one), None) for one in chosen]


@pytest.fixture
def four_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "places", lambda resources: 4)


OVER, RUNS, WAITS = "TERMINATED", "RUNNING", "PENDING"


@pytest.mark.usefixtures("four_places")
@pytest.mark.parametrize(
    ("states", "which"),
    [
        ((OVER, RUNS, RUNS, RUNS, WAITS, WAITS), 4),  # all others are at work
        ((OVER, RUNS, WAITS, WAITS, WAITS, WAITS), 4),  # two are being started for the two before
        ((OVER, WAITS, WAITS, WAITS, WAITS), 4),
        ((OVER, RUNS, RUNS, WAITS), 3),  # nothing else is left
        ((RUNS, RUNS, RUNS, RUNS, WAITS), 4),  # none is free: Ray keeps the trial in mind
        ((RUNS, RUNS, RUNS, RUNS, RUNS, WAITS), 5),  # a node that is gone, and not yet noticed
        ((OVER, RUNS, OVER), None),
    ],
)
def test_the_oldest_trial_is_chosen_for_which_no_worker_is_being_started(
    states: tuple[str, ...], which: int | None
) -> None:
    assert choose(states) == [which]


def test_places_are_counted_again_as_a_cluster_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    there = iter([1, 3])
    monkeypatch.setattr(scheduler, "places", lambda resources: next(there))
    monkeypatch.setattr(scheduler, "_COUNT_SECONDS", 0.0)
    assert choose((OVER, WAITS, WAITS, WAITS), times=2) == [1, 3]


def wait(until: Callable[[], bool]) -> None:
    limit = time.monotonic() + START_SECONDS
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.05)


class SlowToStart(tune.Trainable):
    """The first worker is there at once, any other one only some time after the first trial has ended."""

    def setup(self, config: dict[str, object]) -> None:
        self._notes = Path(str(config["notes"]))
        self._note("begun")
        try:
            (self._notes / "first").touch(exist_ok=False)
        except FileExistsError:
            wait((self._notes / "over").exists)
            time.sleep(1)

    def reset_config(self, new_config: dict[str, object]) -> bool:
        return True

    def step(self) -> dict[str, object]:
        """The first trial ends when another worker is being started, all others when two workers have had a trial."""
        self._note("worked")
        wanted = "worked-*" if (self._notes / "over").exists() else "begun-*"
        wait(lambda: len(list(self._notes.glob(wanted))) > 1)
        (self._notes / "over").touch()
        return {"done": True}

    def _note(self, what: str) -> None:
        (self._notes / f"{what}-{os.getpid()}").touch()


@pytest.mark.ray
def test_a_worker_that_is_being_started_is_not_ended_when_another_one_is_free(
    tiny_raw: dict[str, object], tmp_path: Path
) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=2**27)
    try:
        start_ray(ResourcesConfig())
        folder = create_sweep(tmp_path, parse_space(tiny_raw, "test"))
        space = {"name": tune.grid_search(["a", "b", "c", "d", "e"]), "notes": str(tmp_path)}
        fit(folder, "grid", SlowToStart, space, tune.Callback(), tune.TuneConfig())
    finally:
        ray.shutdown()
    assert len(list(tmp_path.glob("begun-*"))) == 2


SCORES = ((0.5, 0.4), (0.1, 0.1), (0.9, 0.9), (0.3, 0.3), (0.2, 0.2), (0.8, 0.8), (0.05, 0.05))
"""KL of masks on two rungs."""


def decisions(halving: Halving, first: int, masks: tuple[tuple[float, ...], ...]) -> dict[tuple[int, int], str]:
    """What becomes of masks, one after the other, by mask and rung."""
    made = {}
    for number, kls in enumerate(masks, start=first):
        trial = SimpleNamespace(trial_id=str(number))
        halving.on_trial_add(None, trial)
        for rung, kl in enumerate(kls, start=1):
            result = {"training_iteration": rung, "val_kl_nats": kl}
            made[number, rung] = halving.on_trial_result(None, trial, result)
            if made[number, rung] == TrialScheduler.STOP:
                break
    return made


@pytest.mark.parametrize("stopped_after", range(len(SCORES)))
def test_a_search_that_goes_on_ends_the_masks_that_it_would_have_ended(stopped_after: int) -> None:
    whole = decisions(Halving(ResourcesConfig(), Asha(), 4, ()), 0, SCORES)
    assert {TrialScheduler.STOP, TrialScheduler.CONTINUE} == set(whole.values())
    known = [(str(mask), rung, SCORES[mask][rung - 1]) for mask, rung in whole if mask < stopped_after]
    resumed = decisions(Halving(ResourcesConfig(), Asha(), 4, known), stopped_after, SCORES[stopped_after:])
    assert resumed == {key: decision for key, decision in whole.items() if key[0] >= stopped_after}
