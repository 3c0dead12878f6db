from typing import Any

import pytest

from search_spaces.config import AllocationConfig, PlanConfig
from search_spaces.errors import SponError
from search_spaces.resolve import (
    at_equal_levels,
    only_levels,
    resolve_allocation,
    resolve_grid,
    resolve_plan,
    resolve_space,
)
from search_spaces.trial import TrialConfig
from tests.search_spaces.conftest import make_space

STUDY = ["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "TOP-75", "BOTTOM-50", "ATTN-ONLY"]


@pytest.fixture
def trials(shape, fingerprints):
    """The trials of a small space (TOP-50 at 50%) with changes."""

    def resolve(**changes: Any) -> list[TrialConfig]:
        return resolve_space(make_space(**changes), shape, fingerprints)

    return resolve


# Allocations


@pytest.mark.parametrize(
    ("given", "sites", "modules"),
    [
        ({"name": "TOP-25", "modules": ["q_proj"]}, "0.q_proj 1.q_proj", ("q_proj",)),
        ({"name": "a", "layers": [5, 0]}, "0.down_proj 5.down_proj", ("down_proj",)),
        ({"name": "a", "sites": ["3.down_proj", "0.k_proj"]}, "0.k_proj 3.down_proj", ("k_proj", "down_proj")),
        ({"name": "BASELINE-TEAL", "modules": ["o_proj"]}, "", ("o_proj",)),
        (
            {"name": "a", "layers": [1, 0], "modules": ["down_proj", "o_proj"]},
            "0.o_proj 0.down_proj 1.o_proj 1.down_proj",
            ("down_proj", "o_proj"),
        ),
    ],
    ids=str,
)
def test_an_allocation_becomes_sites_in_canonical_order_and_modules_to_match(shape, given, sites, modules):
    allocated = resolve_allocation(AllocationConfig.model_validate(given), shape)
    assert (" ".join(map(str, allocated.sites)), allocated.modules) == (sites, modules)


def test_a_random_allocation_is_drawn_by_its_own_seed(shape):
    draws = {resolve_allocation(AllocationConfig(name="RANDOM-4", seed=seed), shape).sites for seed in range(4)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"layers": [0, 8]}, r"0\.\.7 for this model, but got 8 \(at allocations\.a\)"),
        ({"layers": [-1]}, r"but got -1 \(at allocations\.a\)"),
        ({"layers": [2, 2]}, r"2\.down_proj twice \(at allocations\.a\)"),
        ({"layers": [2], "modules": ["o_proj", "o_proj"]}, r"2\.o_proj twice \(at allocations\.a\)"),
        ({"sites": ["9.o_proj"]}, r"but got 9 \(at allocations\.a\)"),
    ],
)
def test_a_mask_that_does_not_fit_the_model_is_refused(shape, given, line):
    with pytest.raises(SponError, match=line):
        resolve_allocation(AllocationConfig.model_validate({"name": "a", **given}), shape)


# Plans


def test_a_matched_plan_sparsifies_the_allocations_modules_on_every_layer(trials):
    (trial,) = trials(allocations=["TOP-50"])
    assert trial.plan.levels == {f"{layer}.down_proj": 0.5 for layer in range(8)}


def test_a_listed_plan_sparsifies_the_same_sites_for_every_allocation(trials):
    plans = {t.plan_label for t in trials(allocations=STUDY, plan={"modules": ["o_proj", "down_proj"]})}
    assert plans == {"o_proj+down_proj@0.50 threshold"}


def test_plan_layers_limit_the_plan(shape):
    plan = resolve_plan(PlanConfig(layers=(6, 2)), 0.5, ("o_proj",), shape)
    assert list(plan.levels) == ["2.o_proj", "6.o_proj"]


def test_a_level_replaces_the_sweeps_at_its_site_and_level_zero_takes_the_site_out_of_the_plan(shape):
    plan = resolve_plan(PlanConfig(levels={"3.o_proj": 0.25, "4.o_proj": 0.0}), 0.5, ("o_proj",), shape)
    assert plan.levels == {f"{layer}.o_proj": 0.25 if layer == 3 else 0.5 for layer in (0, 1, 2, 3, 5, 6, 7)}


def test_levels_that_are_not_measured_yet_are_no_plan(shape):
    with pytest.raises(SponError, match=r"must be measured first, .* but got greedy \(at plan\.levels\)"):
        resolve_plan(PlanConfig(modules=("o_proj",), levels=("greedy",)), 0.5, ("o_proj",), shape)


def test_a_level_outside_the_plan_is_refused(shape):
    with pytest.raises(SponError, match=r"a site of the plan, but got 3\.q_proj \(at plan\.levels\)"):
        resolve_plan(PlanConfig(levels={"3.q_proj": 0.25}), 0.5, ("o_proj",), shape)


@pytest.mark.parametrize("given", [{"layers": (0, 8)}, {"layers": (1, 1)}, {"modules": ("o_proj", "o_proj")}])
def test_plan_sites_that_do_not_fit_the_model_are_refused(shape, given):
    with pytest.raises(SponError, match=r"\(at plan\)"):
        resolve_plan(PlanConfig(**given), 0.5, ("down_proj",), shape)


@pytest.mark.parametrize(("rule", "blocks"), [("topk", 0), ("threshold", 7)])
def test_only_thresholds_need_calibration_blocks(shape, rule, blocks):
    plan = resolve_plan(PlanConfig(rule=rule, calibration_blocks=7), 0.5, ("o_proj",), shape)
    assert plan.calibration_blocks == blocks


# Biases outside the plan


@pytest.mark.parametrize(
    "plan",
    [{"modules": ["o_proj"]}, {"layers": [4, 5]}, {"levels": {"0.down_proj": 0.0}}],
)
def test_a_bias_outside_the_plan_is_refused(trials, plan):
    with pytest.raises(SponError, match=r"but 0\.down_proj is not \(at allocations\.TOP-50\)"):
        trials(plan=plan)


def test_a_bias_outside_the_plan_is_taken_when_the_space_says_so(trials):
    (trial,) = trials(plan={"modules": ["o_proj"], "allow_unsparsified_biases": True})
    assert trial.sites[0] == "0.down_proj"


def test_a_dense_control_may_carry_biases(trials):
    (trial,) = trials(sparsity=[0.0])
    assert trial.plan.levels == {}
    assert len(trial.sites) == 4


def test_a_bias_outside_is_refused_at_sparsity_zero_too_if_a_level_makes_the_model_sparse(trials):
    with pytest.raises(SponError, match=r"but 1\.down_proj is not"):
        trials(sparsity=[0.0], plan={"levels": {"0.down_proj": 0.5}})


# The grid


def test_the_grid_is_every_sparsity_with_every_allocation(trials):
    grid = trials(sparsity=[0.5, 0.6], allocations=STUDY)
    assert [(t.sparsity, t.allocation) for t in grid] == [(level, name) for level in (0.5, 0.6) for name in STUDY]


def test_each_allocation_is_trained_once_for_each_seed_and_a_baseline_once_for_all(trials):
    assert [t.training.seed for t in trials(allocations=["TOP-50", "BASELINE-TEAL"], seeds=[3, 1])] == [3, 1, 3]


def test_a_name_that_is_not_trained_is_told_with_the_one_that_is(shape, fingerprints):
    trials, others = resolve_grid(make_space(allocations=["TOP-75", "ADAPTIVE"]), shape, fingerprints)
    assert [trial.allocation for trial in trials] == ["TOP-75"]
    assert others == {"ADAPTIVE": "TOP-75"}


def test_the_space_of_levels_only_is_teal_alone_under_them():
    space = make_space(plan={"modules": "all", "levels": "fisher"}, search={"masks": {"family": "subset"}})
    levels = only_levels(space)
    assert (levels.name, levels.search, [a.label for a in levels.allocations]) == ("s-levels", None, ["BASELINE-TEAL"])
    assert levels.plan == space.plan
    assert at_equal_levels(space).plan.methods == ("uniform",)
    with pytest.raises(SponError, match=r"must be fisher or greedy, but the space has none of them"):
        only_levels(at_equal_levels(space))


@pytest.mark.parametrize(
    ("name", "form", "n_params", "relative"),
    [
        ("BASELINE-TEAL", "output_bias", 0, 0.0),
        ("UNIF-ALL", "output_bias", 64, 1.0),
        ("TOP-50", "output_bias", 32, 0.5),
        ("HYBRID-OD", "output_bias", 128, 2.0),
        ("UNIF-ALL", "input_vector", 192, 3.0),
    ],
)
def test_parameters_are_counted_absolute_and_relative(trials, name, form, n_params, relative):
    (trial,) = trials(allocations=[name], training={"form": form})
    assert (trial.n_spon_params, trial.relative_params) == (n_params, relative)
