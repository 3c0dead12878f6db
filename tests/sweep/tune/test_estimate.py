"""The estimate against simulated sweeps of uneven trials."""

import heapq
from collections.abc import Callable

import pytest

from search_spaces.load import parse_space
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.sites import Site
from sweep.tune.estimate import Estimate, Work, makespan, report_flop, work_of
from tests.search_spaces.conftest import make_shape
from trainables.cost import forward_flop, step_flop

SHAPE = make_shape(8)


def resolved(**changes: object):
    raw = {
        "name": "x",
        "model": {"dtype": "float32"},
        "corpus": {"blocks": {"calibration": 64, "validation": 16, "test": 16}},
    } | changes
    return resolve_space(parse_space(raw, "test"), SHAPE, Fingerprints("m", "c"))


def test_work_is_counted_by_the_trials_own_sites():
    early, late = resolved(allocations=["TOP-25", "BOTTOM-25"], sparsity=[0.5])
    first, second = work_of(early, SHAPE), work_of(late, SHAPE)
    assert first.step > second.step
    assert first.steps == second.steps > 0
    tokens = early.training.batch_size * early.training.gradient_accumulation_steps * early.corpus.block_size
    assert first.step == step_flop(SHAPE, tokens, [Site(layer, "down_proj") for layer in (0, 1)])
    assert first.validation == 16 * forward_flop(SHAPE, early.corpus.block_size)


def test_teal_alone_has_nothing_but_its_baselines():
    (teal,) = resolved(allocations=["BASELINE-TEAL"], sparsity=[0.5])
    work = work_of(teal, SHAPE)
    assert (work.own, work.test) == (0, 0)
    assert sum(work.shared.values()) > 0


def test_a_validation_at_the_end_counts_though_it_is_not_due():
    work = Work(10, 1.0, 4, 5.0, 0.0, {}, {})
    assert [work.until(step) for step in (3, 4, 8, 10)] == [3, 9, 18, 25]


def test_the_last_job_ends_when_whoever_is_free_has_taken_the_next():
    assert makespan([3.0, 1.0], [4.0, 1.0], 2) == 5.0
    assert makespan([], [2.0, 2.0, 2.0], 2) == 4.0
    assert makespan([], [], 2) == 0.0


def test_a_report_makes_what_is_shared_once():
    works = [Work(1, 1.0, 1, 1.0, 3.0, {}, {"teacher": 5.0, "plan": 2.0})] * 4
    assert report_flop(works, 2, ()) == 5 + 2 + 6
    assert report_flop(works, 2, {"teacher", "plan"}) == 6


class Simulated:
    """A sweep in simulated time: places that take trials, share what one of them makes, and tell what they do."""

    def __init__(self, works: dict[str, Work], places: int, speed: Callable[[int], float]) -> None:
        self.estimate = Estimate(works, places, with_test=True)
        self._works, self._places, self._speed = works, places, speed
        self.said: list[tuple[float, int, float]] = []  # time, trained trials that have ended, time left
        self.now = 0.0

    def run(self) -> float:
        """The whole time; the estimate is taken at every step."""
        made: set[str] = set()
        waiting, places = list(self._works), [(0.0, n, None) for n in range(self._places)]
        ended = 0
        while places:
            self.now, place, trial = heapq.heappop(places)
            if trial is None:
                if not waiting:
                    continue
                name = waiting.pop(0)
                work = self._works[name]
                self.estimate.started(name, work)
                prepare = sum(v for k, v in work.shared.items() if k not in made)
                made |= work.shared.keys()
                trial = (name, 0, self.now + prepare / self._speed(place))
                heapq.heappush(places, (trial[2], place, trial))
                continue
            name, step, began = trial
            work = self._works[name]
            if step:
                self.estimate.trains(name, step, self.now)
            if step == work.steps:
                after = self.now + work.validation / self._speed(place) if work.steps else self.now
                self.estimate.validated(name, step, after - began)
                self.estimate.ended(name)
                ended += bool(work.steps)
                heapq.heappush(places, (after, place, None))
            else:
                heapq.heappush(places, (self.now + work.step / self._speed(place), place, (name, step + 1, began)))
            if (left := self.estimate.seconds_left) is not None:
                self.said.append((self.now, ended, left))
        return self.now + report_flop(list(self._works.values()), self._places, ()) / self._speed(0)


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("uneven", ["even", "places", "steps"])
def test_from_the_second_trained_trial_on_the_total_is_right_to_a_factor_of_one_and_a_half(places, uneven):
    names = ["BASELINE-TEAL", "UNIF-ALL", "TOP-25", "BOTTOM-25", "ATTN-ONLY", "HYBRID-OD", "BOTTOM-50"]
    trials = resolved(allocations=names, sparsity=[0.4, 0.5, 0.6])
    works = {trial.name: work_of(trial, SHAPE) for trial in trials}
    if uneven == "steps":  # half of the trials are five times as long
        works = {
            name: Work(w.steps * (1 + 4 * (i % 2)), w.step, w.every * 5, w.validation, w.test, w.shared, w.test_shared)
            for i, (name, w) in enumerate(works.items())
        }
    sweep = Simulated(works, places, lambda place: 1e9 * (1 + 0.5 * (place % 2) * (uneven == "places")))
    total = sweep.run()
    told = [now + left for now, ended, left in sweep.said if ended >= 2]
    assert len(told) > 20
    assert max(max(one / total, total / one) for one in told) < 1.5


def test_before_a_step_nothing_is_known():
    estimate = Estimate({"a": Work(4, 1.0, 4, 1.0, 0.0, {}, {})}, 1)
    estimate.started("a", Work(4, 1.0, 4, 1.0, 0.0, {}, {}))
    assert estimate.seconds_left is None
    estimate.trains("a", 1, 10.0)
    assert estimate.seconds_left is None  # of one step it is not known when it began
    estimate.trains("a", 2, 12.0)
    assert estimate.seconds_left == pytest.approx(2 * 3)


def test_what_trials_share_is_made_by_the_first_that_needs_it():
    works = {
        name: Work(4, 1.0, 4, 0.0, 0.0, {"teacher": 10.0, plan: 3.0}, {})
        for name, plan in {"a": "p", "b": "p", "c": "q", "d": "q"}.items()
    }
    estimate = Estimate(works, 1)
    estimate.started("a", works["a"])
    estimate.validated("a", 4, 4.0)
    estimate.ended("a")
    assert estimate.seconds_left == pytest.approx(3 * 4 + 3)


def test_what_an_earlier_process_did_is_not_taken_for_speed_and_a_lost_trial_goes_back_to_its_last_validation():
    work = Work(8, 1.0, 4, 0.0, 0.0, {}, {})
    estimate = Estimate({"a": work}, 1)
    estimate.started("a", work)
    estimate.found("a", 4)
    estimate.validated("a", 6, 4.0)
    assert estimate.seconds_left == pytest.approx(4.0)
    estimate.trains("a", 7, 10.0)
    assert estimate.seconds_left == pytest.approx(2.0)
    estimate.started("a", work)
    assert estimate.seconds_left == pytest.approx(4.0)
    estimate.ended("a")
    assert estimate.seconds_left == 0
    estimate.started("a", work)  # put off, and run again from its start
    assert estimate.seconds_left == pytest.approx(16.0)


def test_trials_that_are_not_known_yet_count_as_the_mean_of_those_that_are():
    work = Work(4, 1.0, 4, 0.0, 0.0, {}, {})
    estimate = Estimate({}, 1, n_trials=3)
    estimate.started("a", work)
    estimate.validated("a", 4, 8.0)
    estimate.ended("a")
    assert estimate.seconds_left == pytest.approx(16.0)
    assert estimate.share == pytest.approx(1 / 3)
