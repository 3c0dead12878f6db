import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.resolve import resolve_space
from search_spaces.search import (
    asks_for_gains,
    check_search,
    named_suggestions,
    quick,
    trial_of_suggestion,
    with_gains,
)
from tests.search_spaces.conftest import make_space

TWO = ["o_proj", "down_proj"]
SUBSET = {"masks": {"family": "subset"}}


def bits(*layers, module="down_proj"):
    return {f"{layer:02d}.{module}": layer in layers for layer in range(8)}


@pytest.fixture
def trial(shape, fingerprints):
    """The trial of fixed parameters in a search of a small space with changes."""

    def of(params, search=SUBSET, **changes):
        space = make_space(search=search, **changes)
        return trial_of_suggestion(space, FixedTrial(params), shape, fingerprints)

    return of


# Masks


def test_a_suggestion_is_the_trial_of_its_mask_with_the_first_seed(trial):
    found = trial(bits(1, 6), seeds=[7, 8])
    assert found.sites == ("1.down_proj", "6.down_proj")
    assert (found.sparsity, found.n_spon_params, found.training.seed) == (0.5, 16, 7)
    assert found.plan.levels == {f"{layer}.down_proj": 0.5 for layer in range(8)}


def test_a_mask_is_named_after_its_sites(trial):
    names = [trial(bits(*layers)).allocation for layers in [(1, 6), (1, 6), (1, 7)]]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("mask-")
    assert len(names[0]) == 13


def test_a_mask_of_an_allocation_of_the_space_has_its_name_and_identity(trial, shape, fingerprints):
    mine = {"allocations": ["UNIF-ALL", {"name": "mine", "layers": [0, 1, 2, 3]}]}
    assert trial(bits(0, 1, 2, 3), **mine) == resolve_space(make_space(**mine), shape, fingerprints)[1]


@pytest.mark.parametrize("module", ["down_proj", "o_proj"])
def test_an_empty_mask_is_teal_alone_under_the_plan_of_the_search(trial, module):
    found = trial(bits(module=module), {"masks": {"family": "subset", "modules": [module]}})
    assert (found.allocation, found.sites) == ("BASELINE-TEAL", ())
    assert found.plan_label == f"{module}@0.50 threshold"


def test_two_families_that_suggest_one_mask_give_one_identity(trial):
    window = trial({"window.length": 2, "window.place": 7}, {"masks": {"family": "window"}})
    assert window.identity == trial(bits(6, 7)).identity


def test_duplicates_of_random_suggestions_are_exactly_the_equal_identities(shape, fingerprints):
    space = make_space(search={"masks": {"family": "exactly_k", "k": 2}})
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found = [trial_of_suggestion(space, study.ask(), shape, fingerprints) for _ in range(100)]
    assert len({found.identity for found in found}) == len({found.sites for found in found}) < 100


def test_biases_outside_the_plan_are_asked_for_where_the_space_takes_them(trial):
    search = {"masks": {"family": "layer_module_bits", "modules": TWO}}
    plan = {"modules": ["down_proj"], "allow_unsparsified_biases": True}
    found = trial({**bits(1), **bits(2, module="o_proj")}, search, plan=plan)
    assert found.sites == ("1.down_proj", "2.o_proj")


# What is tried first


def test_the_named_allocations_are_suggestions_of_themselves(shape, fingerprints):
    space = make_space(search=SUBSET, allocations=["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "BOTTOM-50"])
    found = [trial_of_suggestion(space, FixedTrial(p), shape, fingerprints) for p in named_suggestions(space, shape)]
    assert found == resolve_space(space, shape, fingerprints)


@pytest.mark.parametrize(
    ("allocations", "n"), [(["UNIF-ALL", "TOP-50", "BOTTOM-50"], 2), (["TOP-50", {"name": "a", "layers": range(4)}], 1)]
)
def test_allocations_that_the_masks_cannot_express_or_that_repeat_another_are_left_out(shape, allocations, n):
    space = make_space(search={"masks": {"family": "exactly_k", "k": 4}}, allocations=allocations)
    assert len(named_suggestions(space, shape)) == n


def test_gains_are_asked_for_until_they_are_there(shape):
    space = make_space(search={"masks": {"family": "ranked", "k": 3}})
    assert asks_for_gains(space)
    assert not asks_for_gains(make_space(search=SUBSET))
    known = with_gains(space, {f"{layer}.down_proj": float(layer) for layer in range(8)})
    assert not asks_for_gains(known)
    assert known.search.masks.suggest(FixedTrial({"gain": 1.0, "depth": 0.0, "down_proj": 0.0}), shape)[0].layer == 5


# Checks before the first suggestion


@pytest.mark.parametrize(
    "search",
    [
        SUBSET,
        {"masks": {"family": "window"}, "algorithm": "grid"},
        {"masks": {"family": "subset"}, "algorithm": "grid", "n_masks": 3},
    ],
    ids=str,
)
def test_a_search_that_fits_passes(search, shape):
    check_search(make_space(search=search), shape)


@pytest.mark.parametrize(
    ("search", "changes", "line"),
    [
        ({"masks": {"family": "exactly_k", "k": 9}}, {}, r"k must be in 0\.\.8 layers .* \(at search\.masks\.k\)"),
        (SUBSET, {"plan": {"modules": ["o_proj"]}}, r"must be sparsified .* but 0\.down_proj is not"),
        (
            {**SUBSET, "algorithm": "grid", "n_masks": 2},
            {},
            r"at most 100 x n_masks = 200 points, but got 256 \(at search\.algorithm\)",
        ),
        ({"masks": {"family": "exactly_k", "k": 4}, "algorithm": "grid", "n_masks": 99}, {}, "but got 524288"),
    ],
    ids=str,
)
def test_a_search_that_does_not_fit_is_refused_before_the_first_suggestion(search, changes, line, shape):
    with pytest.raises(SponError, match=line):
        check_search(make_space(search=search, **changes), shape)


def test_a_huge_grid_is_given_by_its_magnitude(shape_of):
    with pytest.raises(SponError, match=r"but got about 10\^9 \(at"):
        check_search(make_space(search={**SUBSET, "algorithm": "grid"}), shape_of(30))


def test_a_quick_search_is_the_same_one_on_less_text_and_at_a_smaller_budget(shape):
    proxy = {"rungs": [8, 32], "n_train": 8}
    whole = make_space(search={"masks": {"family": "subset"}, "n_masks": 100, "proxy": proxy, "stopping": "asha"})
    small = quick(whole)
    assert SpaceConfig.model_validate(small.model_dump()) == small
    assert small.name == f"{whole.name}-quick"
    assert small.corpus.blocks.calibration < whole.corpus.blocks.calibration
    assert small.search.n_masks < 100
    assert (small.search.masks, small.search.algorithm) == (whole.search.masks, whole.search.algorithm)
    check_search(small, shape)
