import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from search_spaces.errors import SponError
from search_spaces.resolve import resolve_space
from search_spaces.schema import SpaceConfig
from search_spaces.search import (
    OutsideSpace,
    check_search,
    named_suggestions,
    quick,
    trial_of_suggestion,
)

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
    """The trials of random suggestions in a space; None where one is outside."""

    def draw(config, count=200):
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        found = []
        for _ in range(count):
            try:
                found.append(trial_of_suggestion(config, study.ask(), shape, fingerprints))
            except OutsideSpace:
                found.append(None)
        return found

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


# The constraint


@pytest.mark.parametrize("masks", [SUBSET["masks"], {"family": "window"}, {"family": "exactly_k", "k": 3}], ids=str)
def test_no_trial_has_more_parameters_than_the_constraint(trials, masks):
    found = trials(space({"masks": masks, "constraint": {"max_params": 24}}))
    assert max(trial.n_spon_params for trial in found if trial) == 24


def test_a_mask_beyond_the_constraint_is_outside_with_the_reason(trial):
    config = space({**SUBSET, "constraint": {"max_params": 24}})
    with pytest.raises(OutsideSpace, match=r"n_spon_params <= 24, but TOP-50 has 32 \(at search\.constraint\.max_par"):
        trial(config, bits(0, 1, 2, 3))


def test_a_suggestion_outside_has_all_its_parameters_so_that_a_sampler_can_learn_from_it(shape, fingerprints):
    config = space({**SUBSET, "constraint": {"max_params": 1}, "lr": {"low": 1, "high": 2}})
    suggestion = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    with pytest.raises(OutsideSpace):
        trial_of_suggestion(config, suggestion, shape, fingerprints)
    assert len(suggestion.params) == 8 + 1


# Ranges


def test_a_range_of_the_training_replaces_its_value(trials):
    search = {**SUBSET, "lr": {"low": 1e-4, "high": 1e-2}, "max_steps": {"low": 3, "high": 5}}
    found = [trial.training for trial in trials(space(search))]
    assert {training.max_steps for training in found} == {3, 4, 5}
    assert all(1e-4 <= training.lr <= 1e-2 for training in found)
    assert 0.3 < sum(training.lr < 1e-3 for training in found) / 200 < 0.7  # uniform in the logarithm


def test_choices_of_sparsity_are_the_levels_of_the_plan(trials):
    found = trials(space({**SUBSET, "sparsity": [0.4, 0.6]}), 30)
    assert {(trial.sparsity, *set(trial.plan.levels.values())) for trial in found} == {(0.4, 0.4), (0.6, 0.6)}


def test_a_mask_has_only_modules_of_the_plan_that_it_is_tried_with(trials):
    for found in trials(space({**BITS, "plan_modules": [["down_proj"], TWO]})):
        assert {site.partition(".")[2] for site in found.sites} <= set(found.plan_label.partition("@")[0].split("+"))


def test_a_plan_without_a_module_does_not_ask_for_it(shape, fingerprints):
    config = space({**BITS, "plan_modules": [["down_proj"], TWO]})
    suggestion = FixedTrial({"plan": "down_proj", **bits(1)})
    assert trial_of_suggestion(config, suggestion, shape, fingerprints).sites == ("1.down_proj",)


def test_biases_outside_the_plan_are_asked_for_where_the_space_takes_them(trial):
    plan = {"allow_unsparsified_biases": True}
    config = space({**BITS, "plan_modules": [["down_proj"], TWO]}, plan=plan)
    found = trial(config, {"plan": "down_proj", **bits(1), **bits(2, module="o_proj")})
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


def test_named_allocations_come_under_every_plan_and_sparsity(shape):
    search = {**BITS, "sparsity": [0.4, 0.6], "plan_modules": [["down_proj"], TWO]}
    found = named_suggestions(space(search, allocations=["TOP-50", "ATTN-ONLY"]), shape)
    assert [(params["plan"], params["sparsity"]) for params in found] == [
        *[("down_proj", 0.4), ("down_proj", 0.6)],
        *[("o_proj+down_proj", 0.4), ("o_proj+down_proj", 0.6)] * 2,
    ]


@pytest.mark.parametrize(("lr", "own"), [(1e-3, {"lr": 1e-3}), (1.0, {})])
def test_named_allocations_have_the_trainings_own_values_where_these_are_in_range(shape, lr, own):
    search = {"masks": {"family": "exactly_k", "k": 8}, "lr": {"low": 1e-4, "high": 1e-2}}
    assert named_suggestions(space(search, training={"lr": lr}), shape) == [own]


def test_named_allocations_have_the_trainings_steps(shape):
    search = {"masks": {"family": "exactly_k", "k": 8}, "max_steps": {"low": 1, "high": 9}}
    (params,) = named_suggestions(space(search, training={"max_steps": 4}), shape)
    assert params == {"max_steps": 4}


# Checks before the first suggestion


@pytest.mark.parametrize(
    "search",
    [
        SUBSET,
        {**BITS, "plan_modules": [["down_proj"], TWO]},
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
        ({**SUBSET, "plan_modules": [["down_proj"], ["o_proj"]]}, {}, r"but got o_proj with masks of down_proj \(at"),
        (
            {
                "masks": {"family": "exactly_k", "k": 9, "per": "site", "modules": TWO},
                "plan_modules": [TWO, ["o_proj"]],
            },
            {},
            r"k must be in 0\.\.8 sites for this model, but got 9",
        ),
        (
            {**SUBSET, "algorithm": "grid", "n_masks": 2},
            {},
            r"at most 100 x n_masks = 200 points, but got 256 \(at search\.algorithm\)",
        ),
        ({**SUBSET, "algorithm": "grid", "max_steps": {"low": 1, "high": 30}, "sparsity": [0.4, 0.5]}, {}, "15360"),
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
