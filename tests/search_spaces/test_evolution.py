import json

import pytest

from search_spaces.errors import SponError
from search_spaces.evolution import MOST_SWAPS, Evolution
from search_spaces.masks import ExactlyK

STAGES = (2, 8, 16)


@pytest.fixture
def evolution(shape):
    """Makes an evolution of three of eight layers with changes."""

    def make(**changes):
        given = {"k": 3, "population_size": 2, "offspring": 8, "stages": STAGES, "seed": 0, **changes}
        return Evolution(ExactlyK(k=given["k"]).units(shape), **given)

    return make


def layers(mask):
    return [site.layer for site in mask]


def cost(mask):
    """The later the layers, the better."""
    return -float(sum(layers(mask)))


def run(search, generations):
    """Masks of every stage of so many generations, told their costs."""
    asked = []
    while search.generation < generations:
        asked.append(search.ask())
        search.tell([cost(mask) for mask in asked[-1]])
    return asked


def test_every_mask_has_k_different_units_in_order(evolution):
    for mask in (mask for stage in run(evolution(), 5) for mask in stage):
        assert layers(mask) == sorted(set(layers(mask)))
        assert len(mask) == 3


def test_the_masks_of_a_stage_are_different(evolution):
    assert all(len(set(stage)) == len(stage) for stage in run(evolution(), 5))


def test_layers_of_several_modules_are_kept_whole(shape):
    units = ExactlyK(k=3, modules=("o_proj", "down_proj")).units(shape)
    (mask, *_) = Evolution(units, 3, 2, 8, STAGES, seed=0).ask()
    assert [str(site).partition(".")[2] for site in mask] == ["o_proj", "down_proj"] * 3


def test_fewer_masks_reach_each_stage_and_it_has_more_text(evolution):
    search, seen = evolution(), []
    for _ in STAGES:
        seen.append((search.blocks, len(search.ask())))
        search.tell([cost(mask) for mask in search.ask()])
    assert seen == [(2, 8), (8, 5), (16, 3)]  # factors of the cube root of a quarter


def test_the_best_of_a_stage_reach_the_next(evolution):
    search = evolution()
    best = sorted(search.ask(), key=cost)[:5]
    search.tell([cost(mask) for mask in search.ask()])
    assert [cost(mask) for mask in search.ask()] == [cost(mask) for mask in best]


def test_the_parents_join_the_last_stage_and_only_it(evolution):
    search = evolution()
    run(search, 1)
    parents = {mask for mask, _ in search.population}
    joined = []
    for _ in STAGES:
        joined.append(parents & set(search.ask()))
        search.tell([cost(mask) for mask in search.ask()])
    assert joined == [set(), set(), parents]


def test_a_parent_that_is_not_beaten_stays(evolution):
    search = evolution(stages=(16,))
    best = float("inf")
    for _ in range(20):
        search.tell([cost(mask) for mask in search.ask()])
        assert search.population[0][1] <= best
        best = search.population[0][1]


def test_a_child_differs_from_a_parent_by_a_few_swaps(evolution):
    search = evolution(population_size=1)
    run(search, 1)
    ((parent, _),) = search.population
    swaps = {len(set(mask) - set(parent)) for mask in search.ask()}
    assert 0 not in swaps
    assert swaps <= set(range(1, MOST_SWAPS + 1))


def test_evolution_finds_the_best_mask_of_a_small_space(evolution):
    search = evolution()
    run(search, 8)
    assert layers(search.population[0][0]) == [5, 6, 7]


def test_the_population_is_sorted_and_has_the_scores_of_the_last_stage(evolution):
    search = evolution()
    run(search, 3)
    assert [score for _, score in search.population] == sorted(cost(mask) for mask, _ in search.population)


def test_there_is_no_population_before_the_first_generation(evolution):
    assert evolution().population == []


def test_start_masks_join_the_last_stage_of_the_first_generation(evolution, shape):
    start = tuple(site for unit in ExactlyK(k=3).units(shape)[:3] for site in unit)
    stages = run(evolution(start=[start, start]), 1)
    assert [stage.count(start) for stage in stages[-1:]] == [1]


def test_the_same_seed_gives_the_same_masks(evolution):
    assert run(evolution(seed=5), 4) == run(evolution(seed=5), 4)


def test_another_seed_gives_other_masks(evolution):
    assert evolution(seed=5).ask() != evolution(seed=6).ask()


def test_to_ask_again_changes_nothing(evolution):
    search = evolution()
    assert search.ask() == search.ask()


@pytest.mark.parametrize("told", range(7))
def test_a_search_goes_on_from_its_state_as_if_it_had_not_stopped(evolution, told):
    search, resumed = evolution(), evolution()
    for _ in range(told):
        search.tell([cost(mask) for mask in search.ask()])
    resumed.restore(json.loads(json.dumps(search.state())))
    assert (resumed.ask(), resumed.population) == (search.ask(), search.population)
    assert run(resumed, 5) == run(search, 5)


@pytest.mark.parametrize(("key", "other"), [("k", 2), ("offspring", 9), ("stages", (2, 8)), ("seed", 1)])
def test_the_state_of_another_search_is_refused(evolution, key, other):
    with pytest.raises(SponError, match=f"must have the {key} that it began with, but got"):
        evolution().restore(evolution(**{key: other}).state())


@pytest.mark.parametrize("scores", [[], [1.0] * 7, [1.0] * 7 + [float("nan")]])
def test_scores_that_are_missing_or_not_finite_are_refused(evolution, scores):
    with pytest.raises(ValueError, match="must be 8 finite scores"):
        evolution().tell(scores)


@pytest.mark.parametrize("k", [0, 8, 9])
def test_a_size_that_leaves_nothing_to_choose_is_refused(shape, k):
    with pytest.raises(SponError, match=r"more masks than survive, but got .* out of 8 \(at search\.masks\.k\)"):
        Evolution(ExactlyK(k=3).units(shape), k, 2, 8, STAGES, seed=0)


def test_a_start_mask_of_another_size_is_refused(evolution, shape):
    with pytest.raises(SponError, match=r"must be 3 of the units to choose from, but got 0\.down_proj \(at evolution"):
        evolution(start=[ExactlyK(k=3).units(shape)[0]])


def test_a_space_with_hardly_more_masks_than_survive_still_gives_children(shape_of):
    search = Evolution(ExactlyK(k=1).units(shape_of(3)), 1, 2, 4, (4,), seed=0)
    run(search, 5)
    assert [layers(mask) for mask, _ in search.population] == [[2], [1]]
