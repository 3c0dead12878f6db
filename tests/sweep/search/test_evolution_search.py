"""The searcher as Ray calls it, without Ray: three of eight layers, the later the better."""

from dataclasses import dataclass, field
from itertools import count

import pytest
from ray.tune.search import Searcher

from search_spaces.resolve import Fingerprints
from search_spaces.schema import SpaceConfig
from sweep.search.evolution_search import EvolutionSearch
from sweep.search.task import Counts, Task
from tests.search_spaces.conftest import make_shape

IDS = map(str, count())


@dataclass
class Evaluator:
    """Stands for the log: scores by layers and blocks."""

    scores: dict[tuple[tuple[int, ...], int], float] = field(default_factory=dict)

    def known(self, trial, blocks):
        score = self.scores.get((layers_of(trial), blocks))
        return None if score is None else (score,)

    def job(self, trial, rungs):
        (blocks,) = rungs
        return layers_of(trial), blocks


def layers_of(trial):
    return tuple(int(site.partition(".")[0]) for site in trial.sites)


def cost(job):
    return 1 - sum(job[0]) / 100


@pytest.fixture
def counts(tmp_path):
    """What the searcher wrote for others to read."""
    return lambda: Counts.read(tmp_path / "proposals.json")


@pytest.fixture
def searcher(tmp_path):
    """Makes a searcher of four masks a generation, three of which come to the second stage."""

    def make(known=(), allocations=("UNIF-ALL",), n_masks=99):
        search = {
            "masks": {"family": "exactly_k", "k": 3},
            "algorithm": {"name": "evolution", "population_size": 2, "offspring": 4},
            "proxy": {"rungs": [2, 8]},
            "n_masks": n_masks,
        }
        space = {
            "name": "s",
            "model": {"dtype": "float32"},
            "sparsity": [0.5],
            "allocations": allocations,
            "search": search,
        }
        evaluator = Evaluator(dict(known))
        task = Task(
            space=SpaceConfig.model_validate(space),
            shape=make_shape(8),
            fingerprints=Fingerprints("m", "c"),
            rungs=(2, 8),
            known=evaluator.known,
            job=evaluator.job,
            counts=tmp_path / "proposals.json",
        )
        return EvolutionSearch(task)

    return make


def give_out(search):
    """All that the searcher gives before it waits or ends, by trial."""
    jobs = {}
    while isinstance(job := search.suggest(trial_id := next(IDS)), tuple):
        jobs[trial_id] = job
    return jobs


def tell(search, jobs):
    for trial_id, job in jobs.items():
        search.on_trial_complete(trial_id, {"val_kl_nats": cost(job)})


def stages(search, number):
    """The jobs of so many stages, each told before the next."""
    found = []
    for _ in range(number):
        jobs = give_out(search)
        found.append(list(jobs.values()))
        tell(search, jobs)
    return found


def test_all_masks_of_a_stage_are_given_out_at_once(searcher):
    jobs = list(give_out(searcher()).values())
    assert [blocks for _, blocks in jobs] == [2] * 4
    assert len(set(jobs)) == 4


def test_the_next_stage_waits_for_all_masks(searcher):
    search = searcher()
    *first, last = give_out(search).items()
    tell(search, dict(first))
    assert search.suggest("early") is None
    tell(search, dict([last]))
    assert search.suggest("next")[1] == 8


def test_the_best_of_a_stage_come_to_the_next(searcher):
    first, second = stages(searcher(), 2)
    assert [mask for mask, _ in second] == [mask for mask, _ in sorted(first, key=cost)[:3]]


def test_a_mask_that_failed_is_worse_than_any_other(searcher):
    search = searcher()
    jobs = give_out(search)
    best = min(jobs, key=lambda trial_id: cost(jobs[trial_id]))
    tell(search, {trial_id: job for trial_id, job in jobs.items() if trial_id != best})
    search.on_trial_complete(best, {"failure": "no such site", "done": True})
    assert jobs[best][0] not in [mask for mask, _ in give_out(search).values()]


@pytest.mark.parametrize("end", [{"error": True}, {"result": None}], ids=["exception", "no result"])
def test_a_mask_that_ends_without_a_score_does_not_hold_up_the_others(searcher, end):
    search = searcher()
    (failed, _), *others = give_out(search).items()
    tell(search, dict(others))
    search.on_trial_complete(failed, **end)
    assert len(give_out(search)) == 3


def test_a_known_mask_is_not_given_out(searcher, counts):
    known, *others = give_out(searcher()).values()
    search = searcher(known={known: cost(known)})
    assert list(give_out(search).values()) == others
    assert (counts().new, counts().repeated) == (3, 1)


def test_a_known_mask_takes_part_with_its_score(searcher):
    jobs = give_out(searcher()).values()
    worst = max(jobs, key=cost)
    search = searcher(known={worst: 0.0})
    tell(search, give_out(search))
    assert next(iter(give_out(search).values()))[0] == worst[0]


def test_a_stage_of_known_masks_is_passed_over(searcher):
    first, second = stages(searcher(), 2)
    search = searcher(known={job: cost(job) for job in first})
    assert list(give_out(search).values()) == second


def test_the_spaces_own_masks_of_the_size_join_the_last_stage(searcher):
    mine = {"name": "mine", "layers": [0, 1, 2]}
    first, second = stages(searcher(allocations=["TOP-50", mine]), 2)
    assert ((0, 1, 2), 2) not in first
    assert ((0, 1, 2), 8) in second


def test_a_mask_is_counted_once_for_all_its_stages(searcher, counts):
    stages(searcher(), 2)
    assert counts() == Counts(new=4)


def test_the_budget_ends_a_search_at_the_end_of_a_generation(searcher, counts):
    search, seen = searcher(n_masks=3), []
    for _ in range(2):
        assert len(stages(search, 1)[0]) > 0
        seen.append(counts().ended)
    assert seen == [False, False]
    assert search.suggest("more") == Searcher.FINISHED
    assert counts() == Counts(new=4, ended=True)
    assert counts().done


def test_a_generation_follows_while_there_is_budget(searcher):
    search = searcher(n_masks=5)
    stages(search, 2)
    assert search.suggest("more")[1] == 2


def test_the_end_of_a_trial_that_was_never_asked_for_is_ignored(searcher):
    search = searcher()
    search.on_trial_complete("nobody", {"val_kl_nats": 0.0})
    assert len(give_out(search)) == 4


@pytest.mark.parametrize("place", range(4))
def test_a_search_goes_on_from_what_was_saved_as_if_it_had_not_stopped(searcher, tmp_path, place):
    search = searcher()
    stages(search, place)
    search.save(str(tmp_path / "searcher.pkl"))
    resumed = searcher()
    resumed.restore(str(tmp_path / "searcher.pkl"))
    assert stages(resumed, 5) == stages(search, 5)


def test_masks_that_were_under_way_are_told_after_a_restart(searcher, tmp_path, counts):
    search = searcher()
    under_way = {trial_id: search.suggest(trial_id) for trial_id in "ab"}
    search.save(str(tmp_path / "searcher.pkl"))
    resumed = searcher()
    resumed.restore(str(tmp_path / "searcher.pkl"))
    assert counts().open == 2
    tell(resumed, under_way)
    assert len(give_out(resumed)) == 2


def test_a_mask_given_out_after_the_save_is_given_out_again(searcher, tmp_path):
    search = searcher()
    search.suggest("a")
    search.save(str(tmp_path / "searcher.pkl"))
    lost = search.suggest("b")
    resumed = searcher()
    resumed.restore(str(tmp_path / "searcher.pkl"))
    assert resumed.suggest("c") == lost
