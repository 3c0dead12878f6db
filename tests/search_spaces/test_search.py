import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError
from search_spaces.resolve import resolve_space
from search_spaces.search import check_search, named_suggestions, quick, trial_of_suggestion

TWO = ["o_proj", "down_proj"]
SUBSET = {"masks": {"family": "subset"}}
BITS = {"masks": {"family": "layer_module_bits", "modules": TWO}}


def space(search, **changes):
    given = {
        "name": "s",
        "model": {"dtype": "float32"},
        "sparsity": [0.5],
        "allocations": ["TOP-50", "UNIF-ALL"],
        "search": search,
        **changes,
    }
    return SpaceConfig.model_validate(given)


def bits(*layers, module="down_proj"):
    return {f"{layer:02d}.{module}": layer in layers for layer in range(8)}


@pytest.fixture
def trial(shape, fingerprints):
    """The trial of fixed parameters in a space."""
    return lambda config, params: trial_of_suggestion(config, FixedTrial(params), shape, fingerprints)


@pytest.fixture
def trials(shape, fingerprints):
    """The trials of random suggestions in a space."""

    def draw(config, count=200):
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        return [trial_of_suggestion(config, study.ask(), shape, fingerprints) for _ in range(count)]

    return draw


# Masks


def test_a_suggestion_is_the_trial_of_its_mask(trial):
    found = trial(space(SUBSET), bits(1, 6))
    assert found.sites == ("1.down_proj", "6.down_proj")
    assert (found.sparsity, found.n_spon_params) == (0.5, 16)
    assert found.plan.levels == {f"{layer}.down_proj": 0.5 for layer in range(8)}


def test_a_mask_is_named_after_its_sites(trial):
    names = [trial(space(SUBSET), bits(*layers)).allocation for layers in [(1, 6), (1, 6), (1, 7)]]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("mask-")
    assert len(names[0]) == 13


def test_a_mask_of_a_named_allocation_has_its_name_and_identity(trial, shape, fingerprints):
    config = space(SUBSET)
    (top, _) = resolve_space(config, shape, fingerprints)
    assert trial(config, bits(0, 1, 2, 3)) == top


def test_the_names_are_those_of_the_space(trial):
    mine = space(SUBSET, allocations=[{"name": "mine", "layers": [0, 1, 2, 3]}])
    assert trial(mine, bits(0, 1, 2, 3)).allocation == "mine"


@pytest.mark.parametrize("module", ["down_proj", "o_proj"])
def test_an_empty_mask_is_teal_alone_under_the_plan_of_the_search(trial, module):
    config = space({"masks": {"family": "subset", "modules": [module]}})
    found = trial(config, bits(module=module))
    assert (found.allocation, found.sites) == ("BASELINE-TEAL", ())
    assert found.plan_label == f"{module}@0.50 threshold"


def test_two_families_that_suggest_one_mask_give_one_identity(trial):
    window = space({"masks": {"family": "window"}})
    assert trial(window, {"window.length": 2, "window.place": 7}).identity == trial(space(SUBSET), bits(6, 7)).identity


def test_duplicates_of_random_suggestions_are_exactly_the_equal_identities(trials):
    found = trials(space({"masks": {"family": "exactly_k", "k": 2}}))
    assert len({found.identity for found in found}) == len({found.sites for found in found}) < 200


def test_a_search_without_search_is_refused(trial):
    with pytest.raises(SponError, match=r"must have a key search, but s has none \(at search\)"):
        trial(space(None), {})


def test_masks_are_trained_with_the_first_seed(trial):
    assert trial(space(SUBSET, seeds=[7, 8]), bits(1)).training.seed == 7


def test_biases_outside_the_plan_are_asked_for_where_the_space_takes_them(trial):
    config = space(BITS, plan={"modules": ["down_proj"], "allow_unsparsified_biases": True})
    found = trial(config, {**bits(1), **bits(2, module="o_proj")})
    assert found.sites == ("1.down_proj", "2.o_proj")


# What is tried first


def test_the_named_allocations_are_suggestions_of_themselves(shape, fingerprints):
    config = space(SUBSET, allocations=["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "BOTTOM-50"])
    found = [trial_of_suggestion(config, FixedTrial(p), shape, fingerprints) for p in named_suggestions(config, shape)]
    assert found == resolve_space(config, shape, fingerprints)


def test_allocations_that_the_masks_cannot_express_are_left_out(shape):
    config = space({"masks": {"family": "exactly_k", "k": 4}}, allocations=["UNIF-ALL", "TOP-50", "BOTTOM-50"])
    assert len(named_suggestions(config, shape)) == 2


def test_two_names_of_one_mask_are_one_suggestion(shape):
    assert len(named_suggestions(space(SUBSET, allocations=["TOP-75", "ADAPTIVE"]), shape)) == 1


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
    check_search(space(search), shape)


@pytest.mark.parametrize(
    ("search", "changes", "line"),
    [
        ({"masks": {"family": "exactly_k", "k": 9}}, {}, r"k must be in 0\.\.8 layers .* \(at search\.masks\.k\)"),
        (SUBSET, {"plan": {"modules": ["o_proj"]}}, r"must be sparsified .* but 0\.down_proj is not"),
        (
            {"masks": {"family": "exactly_k", "k": 17, "per": "site", "modules": TWO}},
            {"plan": {"modules": TWO}},
            r"k must be in 0\.\.16 sites for this model, but got 17",
        ),
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
        check_search(space(search, **changes), shape)


def test_a_huge_grid_is_given_by_its_magnitude(shape_of):
    with pytest.raises(SponError, match=r"but got about 10\^9 \(at"):
        check_search(space({**SUBSET, "algorithm": "grid"}), shape_of(30))


def test_a_quick_search_is_the_same_one_on_less_text_and_at_a_smaller_budget(shape):
    proxy = {"rungs": [8, 32], "n_train": 8}
    whole = space({"masks": {"family": "subset"}, "n_masks": 100, "proxy": proxy, "stopping": "asha"})
    small = quick(whole)
    assert SpaceConfig.model_validate(small.model_dump()) == small
    assert small.name == f"{whole.name}-quick"
    assert small.corpus.blocks.calibration < whole.corpus.blocks.calibration
    assert small.search.n_masks < 100
    assert (small.search.masks, small.search.algorithm) == (whole.search.masks, whole.search.algorithm)
    check_search(small, shape)
