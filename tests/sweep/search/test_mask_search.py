"""The searcher as Ray calls it, without Ray: masks of a model of a few layers that exists as a shape only."""

from dataclasses import dataclass
from random import Random

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweep.search.mask_search import PATIENCE, MaskSearch, open_journal
from sweep.search.task import Task
from sweep.store.counts import Counts
from tests.search_spaces.conftest import make_shape
from tests.sweep.search.fabricated import PRINTS, space_of

DEPTH = 4


@dataclass
class Evaluator:
    """Stands for the log or the ledger: values by layers."""

    rungs: tuple[int, ...]
    values: dict[tuple[int, ...], tuple[float, ...]]

    def known(self, trial):
        return self.values.get(layers_of(trial.sites))

    def job(self, trial):
        return {"layers": layers_of(trial.sites)}


def layers_of(sites):
    return tuple(int(site.partition(".")[0]) for site in sites)


def bits(*layers):
    return {f"{layer:02d}.down_proj": layer in layers for layer in range(DEPTH)}


def result(kl=0.5, params=8, complete=True, iteration=1):
    return {"val_kl_nats": kl, "n_spon_params": params, "complete": complete, "training_iteration": iteration}


@pytest.fixture
def counts(tmp_path):
    """What the searcher wrote for others to read."""
    return lambda: Counts.read(tmp_path / "proposals.json")


@pytest.fixture
def searcher(tmp_path):
    """Makes a searcher over subsets, which knows the values of some; all of a test on one storage."""

    def make(known=None, depth=DEPTH, rungs=(), allocations=("UNIF-ALL",), **search):
        space = space_of(*allocations, search={"algorithm": "random", "n_masks": 9, **search})
        masks = Evaluator(rungs, {} if known is None else known)
        task = Task(space, make_shape(depth), PRINTS, masks, tmp_path / "proposals.json")
        return MaskSearch(task, tmp_path / "optuna.log")

    return make


@pytest.fixture
def study(tmp_path):
    """The study as Optuna stores it."""
    return lambda: optuna.load_study(study_name="s", storage=open_journal(tmp_path / "optuna.log"))


@pytest.fixture
def propose(study):
    """Makes the sampler propose masks next, whatever it would have proposed."""

    def enqueue(*masks):
        for layers in masks:
            study().enqueue_trial(bits(*layers))

    return enqueue


@pytest.fixture
def told(study):
    """State and values of what was proposed for some layers, in order."""

    def of(*layers):
        return [(t.state, t.values) for t in study().trials if t.params == bits(*layers)]

    return of


# What is given out


def test_the_named_allocations_come_first(searcher):
    search = searcher(allocations=["BASELINE-TEAL", "BOTTOM-50", "UNIF-ALL"])
    assert [search.suggest(str(i))["layers"] for i in range(3)] == [(), (2, 3), (0, 1, 2, 3)]


def test_a_mask_that_is_known_is_told_at_once_and_takes_nothing_of_the_budget(searcher, told, counts, propose):
    search = searcher(known={(0, 1, 2, 3): (0.125,)})
    propose((1,))
    assert search.suggest("a")["layers"] == (1,)
    assert told(0, 1, 2, 3) == [(TrialState.COMPLETE, [0.125])]
    assert counts() == Counts(new=1, open=1, repeated=1)


def test_a_mask_that_is_under_way_is_not_given_out_again_and_told_with_it(searcher, told, counts, propose):
    search = searcher()
    propose((1,), (1,), (1,), (2,))
    assert [search.suggest(i)["layers"] for i in "abc"] == [(0, 1, 2, 3), (1,), (2,)]
    assert told(1) == [(TrialState.RUNNING, None)] * 3
    search.on_trial_complete("b", result(kl=0.25))
    assert told(1) == [(TrialState.COMPLETE, [0.25])] * 3
    assert counts().repeated == 2


@pytest.mark.parametrize(
    "end",
    [{"error": True}, {"result": {"failure": "the loss must stay finite", "complete": False, "done": True}}],
    ids=["exception", "failure"],
)
def test_a_mask_that_failed_is_told_so_and_never_given_out_again(searcher, told, propose, end):
    search = searcher()
    propose((1,), (1,), (2,))
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("b", **end)
    assert search.suggest("c")["layers"] == (2,)
    assert told(1) == [(TrialState.FAIL, None)] * 2


def test_a_scored_mask_whose_worker_was_lost_has_one_more_chance_and_costs_the_budget_once(searcher, told, counts):
    search = searcher(rungs=(2, 8), n_masks=1)
    search.suggest("a")
    assert search.suggest("b") is None  # it may be lost
    search.on_trial_complete("a", error=True)
    assert counts() == Counts()
    assert search.suggest("b")["layers"] == (0, 1, 2, 3)
    search.on_trial_complete("b", error=True)
    assert search.suggest("c") == Searcher.FINISHED
    assert told(0, 1, 2, 3) == [(TrialState.FAIL, None)] * 2
    assert (counts(), searcher(rungs=(2, 8), n_masks=1).suggest("d")) == (Counts(new=1, ended=True), Searcher.FINISHED)


# What is told


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (result(kl=0.25), (TrialState.COMPLETE, [0.25])),
        (result(kl=0.25, complete=False), (TrialState.PRUNED, None)),
        (None, (TrialState.PRUNED, None)),
    ],
    ids=["complete", "stopped by a scheduler: without its score", "without a result"],
)
def test_the_outcome_of_a_mask_is_told(searcher, told, end, outcome):
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", end)
    assert told(0, 1, 2, 3) == [outcome]


def test_two_objectives_are_told_in_their_order(searcher, told, propose):
    search = searcher(known={(1,): (0.75, 8.0)}, objectives=["val_kl_nats", "n_spon_params"])
    propose((1,), (2,))
    search.suggest("a")
    search.suggest("b")
    search.on_trial_complete("a", result(kl=0.25, params=32))
    assert (*told(0, 1, 2, 3), *told(1)) == ((TrialState.COMPLETE, [0.25, 32]), (TrialState.COMPLETE, [0.75, 8]))


def test_scores_on_the_way_are_passed_on_and_a_failure_is_none(searcher, study):
    search = searcher(rungs=(2, 8))
    search.suggest("a")
    search.on_trial_result("a", result(kl=0.5, complete=False, iteration=1))
    search.on_trial_result("a", {"failure": "no such site", "complete": False, "training_iteration": 2})
    assert study().trials[0].intermediate_values == {1: 0.5}


def test_the_end_of_a_trial_that_was_never_asked_for_is_ignored(searcher, study):
    searcher().on_trial_complete("nobody", result())
    assert [trial.state for trial in study().trials] == [TrialState.WAITING]


# The end


def test_random_masks_take_over_from_a_sampler_that_only_repeats_itself(searcher, counts, monkeypatch):
    class Stuck(RandomSampler):
        def sample_independent(self, *args):
            return True

    monkeypatch.setattr("sweep.search.mask_search.make_sampler", lambda *args: Stuck())
    search = searcher(known={(0, 1, 2, 3): (0.125,)})
    assert search.suggest("a")["layers"] != (0, 1, 2, 3)
    assert counts().strayed == 1
    assert counts().repeated >= PATIENCE


def test_a_sampler_has_its_patience_before_masks_are_drawn_at_random(searcher, counts, propose):
    search = searcher(known={(0, 1, 2, 3): (0.125,), (1,): (0.25,)})
    propose(*[(1,)] * (PATIENCE - 2), (2,))
    assert search.suggest("a")["layers"] == (2,)
    assert (counts().repeated, counts().strayed) == (PATIENCE - 1, 0)


def test_a_search_ends_with_its_budget_when_no_mask_is_under_way(searcher, counts, propose):
    search, seen = searcher(n_masks=2), []
    propose((1,))
    for step in (
        lambda: search.suggest("a"),
        lambda: search.suggest("b"),
        lambda: search.on_trial_complete("a", result()),
        lambda: search.on_trial_complete("b", error=True),
    ):
        step()
        seen.append((counts().ended, counts().done))
    assert seen == [(False, False), (True, False), (True, False), (True, True)]


@pytest.mark.parametrize("algorithm", ["random", "grid"])
def test_a_space_that_is_used_up_ends_the_search(searcher, counts, algorithm, monkeypatch):
    monkeypatch.setattr("sweep.search.mask_search._GIVE_UP", 30)
    search = searcher(depth=1, algorithm=algorithm)
    for trial_id in "ab":
        search.suggest(trial_id)
        search.on_trial_complete(trial_id, error=True)
    assert search.suggest("c") == Searcher.FINISHED
    assert (counts().new, counts().done) == (2, True)


# Going on


def test_what_was_under_way_is_given_up_and_proposed_again(searcher, counts, told, propose):
    search = searcher(n_masks=2)
    search.suggest("a")
    propose((1,))
    search.suggest("b")
    assert counts() == Counts(new=2, open=2, ended=True)
    fresh = searcher(n_masks=2)
    assert [fresh.suggest(trial_id)["layers"] for trial_id in "cd"] == [(0, 1, 2, 3), (1,)]
    assert fresh.suggest("e") is None
    assert counts() == Counts(new=2, open=2, ended=True)
    assert told(1) == [(TrialState.FAIL, None), (TrialState.RUNNING, None)]


def test_a_mask_that_was_told_and_not_noted_before_a_kill_is_in_the_budget(searcher, counts, propose):
    search = searcher(n_masks=2)
    search.suggest("a")
    search._note = lambda: None  # the process is killed before
    search.on_trial_complete("a", result())
    fresh = searcher(n_masks=2)
    propose((1,))
    assert fresh.suggest("b")["layers"] == (1,)
    assert fresh.suggest("c") is None
    assert counts() == Counts(new=2, open=1, ended=True)


@pytest.mark.parametrize(
    ("end", "state"), [({"error": True}, TrialState.FAIL), ({"result": result(complete=False)}, TrialState.PRUNED)]
)
def test_a_mask_that_failed_or_was_stopped_is_not_run_again_after_a_restart(searcher, told, propose, end, state):
    search = searcher()
    propose((1,))
    for trial_id in "ab":
        search.suggest(trial_id)
        search.on_trial_complete(trial_id, **end)
    fresh = searcher()
    propose((1,), (2,))
    assert fresh.suggest("c")["layers"] == (2,)
    assert [found for found, _ in told(1)] == [state] * 2


def test_what_is_lost_twice_is_proposed_again_once(searcher, counts):
    for _ in range(3):
        search = searcher(n_masks=1)
        assert search.suggest("a")["layers"] == (0, 1, 2, 3)
        assert search.suggest("b") is None
    assert counts() == Counts(new=1, open=1, ended=True)


def test_a_second_searcher_has_the_study_of_the_first_and_proposes_the_named_allocations_no_more(
    searcher, study, told, propose
):
    search = searcher()
    search.suggest("a")
    search.on_trial_complete("a", result(kl=0.25))
    propose((1,))
    assert searcher().suggest("b")["layers"] == (1,)
    assert (study().best_value, len(told(0, 1, 2, 3))) == (0.25, 1)


def test_named_allocations_that_were_not_all_proposed_before_a_kill_are_proposed_after_it(searcher, monkeypatch):
    names, enqueue = ["BASELINE-TEAL", "BOTTOM-50", "UNIF-ALL"], optuna.Study.enqueue_trial

    def killed_at_the_second(study, params, **options):
        if params != bits():
            raise KeyboardInterrupt
        enqueue(study, params, **options)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            searcher(allocations=names)
    search = searcher(allocations=names)
    assert [search.suggest(str(i))["layers"] for i in range(3)] == [(), (2, 3), (0, 1, 2, 3)]


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
@pytest.mark.parametrize("seed", range(4))
def test_through_any_interruption_the_budget_is_kept_and_no_mask_ends_twice(searcher, study, algorithm, seed):
    rng, budget, number = Random(seed), 9, 0
    values: dict[tuple[int, ...], tuple[float, ...]] = {}  # live, as the log of the masks is
    ended: dict[tuple[int, ...], str] = {}
    running: dict[str, tuple[int, ...]] = {}
    for _ in range(1000):
        if not number or rng.random() < 0.15:  # the process is killed
            search = searcher(known=values, rungs=(2, 8), n_masks=budget, algorithm=algorithm)
            running, number = {}, number + 1
        elif rng.random() < 0.5 and len(running) < 3:
            number += 1
            given = search.suggest(str(number))
            if given == Searcher.FINISHED:
                break
            if given is not None:
                assert given["layers"] not in {*ended, *running.values()}
                running[str(number)] = given["layers"]
        elif running:
            trial_id, layers = running.popitem()
            end = rng.choice(["complete", "complete", "stopped", "failed", "lost"])
            kl = rng.random()
            if end == "complete":
                values[layers] = (kl,)
            ends = {"complete": {"result": result(kl)}, "stopped": {"result": result(kl, complete=False)}}
            ends |= {"failed": {"result": {"failure": "x"}}, "lost": {"error": True}}
            before = len(study().trials)
            search.on_trial_complete(trial_id, **ends[end])
            if len(study().trials) == before:  # else it is proposed again
                ended[layers] = end
    assert not running
    assert len(ended) == budget
    assert not [trial for trial in study().trials if trial.state == TrialState.RUNNING]
    complete = [trial.params for trial in study().trials if trial.state == TrialState.COMPLETE]
    assert all(bits(*layers) in complete for layers in values)
