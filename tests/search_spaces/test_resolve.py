from typing import Any

import pytest

from search_spaces.config import AllocationConfig, PlanConfig, SpaceConfig
from search_spaces.errors import SponError
from search_spaces.resolve import Fingerprints, resolve_allocation, resolve_grid, resolve_plan, resolve_space
from search_spaces.trial import TrialConfig

STUDY = ["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "TOP-75", "BOTTOM-50", "ATTN-ONLY"]


@pytest.fixture
def trials(shape, fingerprints):
    """Resolves a small space (TOP-50 at 50%) with changes."""

    def resolve(**changes: Any) -> list[TrialConfig]:
        space = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-50"], **changes}
        return resolve_space(SpaceConfig.model_validate(space), shape, fingerprints)

    return resolve


@pytest.fixture
def identity(trials):
    """The identity of the one trial of a small space with changes."""
    return lambda **changes: trials(**changes)[0].identity


def allocation(**given: Any) -> AllocationConfig:
    return AllocationConfig.model_validate(given)


# Allocations


def test_a_named_allocation_becomes_sites_in_canonical_order(shape):
    allocated = resolve_allocation(allocation(name="HYBRID-OD"), shape)
    assert [str(site) for site in allocated.sites[:3]] == ["0.o_proj", "0.down_proj", "1.o_proj"]
    assert len(allocated.sites) == 16


def test_modules_replace_those_of_a_named_allocation(shape):
    allocated = resolve_allocation(allocation(name="TOP-25", modules=["q_proj"]), shape)
    assert [str(site) for site in allocated.sites] == ["0.q_proj", "1.q_proj"]
    assert allocated.modules == ("q_proj",)


def test_explicit_layers_mean_down_proj_unless_modules_are_given(shape):
    assert [str(s) for s in resolve_allocation(allocation(name="a", layers=[5, 0]), shape).sites] == [
        "0.down_proj",
        "5.down_proj",
    ]


def test_explicit_sites_match_the_modules_they_have(shape):
    assert resolve_allocation(allocation(name="a", sites=["3.down_proj", "0.k_proj"]), shape).modules == (
        "k_proj",
        "down_proj",
    )


def test_a_random_allocation_is_drawn_by_its_own_seed(shape):
    draws = {resolve_allocation(allocation(name="RANDOM-4", seed=seed), shape).sites for seed in range(4)}
    assert len(draws) > 1


def test_a_baseline_can_be_matched_to_other_modules(shape):
    allocated = resolve_allocation(allocation(name="BASELINE-TEAL", modules=["o_proj"]), shape)
    assert (allocated.sites, allocated.modules) == ((), ("o_proj",))


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
        resolve_allocation(allocation(name="a", **given), shape)


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


def test_a_level_replaces_the_sweeps_at_its_site(shape):
    plan = resolve_plan(PlanConfig(levels={"3.o_proj": 0.25}), 0.5, ("o_proj",), shape)
    assert plan.levels["3.o_proj"] == 0.25
    assert plan.levels["2.o_proj"] == 0.5


def test_a_site_at_level_zero_is_outside_the_plan(shape):
    plan = resolve_plan(PlanConfig(levels={"3.o_proj": 0.0}), 0.5, ("o_proj",), shape)
    assert "3.o_proj" not in plan.levels
    assert len(plan.levels) == 7


def test_a_level_outside_the_plan_is_refused(shape):
    with pytest.raises(SponError, match=r"a site of the plan, but got 3\.q_proj \(at plan\.levels\)"):
        resolve_plan(PlanConfig(levels={"3.q_proj": 0.25}), 0.5, ("o_proj",), shape)


@pytest.mark.parametrize("given", [{"layers": (0, 8)}, {"layers": (1, 1)}, {"modules": ("o_proj", "o_proj")}])
def test_plan_sites_that_do_not_fit_the_model_are_refused(shape, given):
    with pytest.raises(SponError, match=r"\(at plan\)"):
        resolve_plan(PlanConfig(**given), 0.5, ("down_proj",), shape)


@pytest.mark.parametrize(("rule", "blocks"), [("topk", 0), ("threshold", 7)])
def test_only_thresholds_need_calibration_blocks(shape, rule, blocks):
    assert (
        resolve_plan(PlanConfig(rule=rule, calibration_blocks=7), 0.5, ("o_proj",), shape).calibration_blocks == blocks
    )


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


def test_each_allocation_is_trained_once_for_each_seed(trials):
    assert [t.training.seed for t in trials(seeds=[3, 1])] == [3, 1]


def test_a_baseline_is_one_trial_under_several_seeds(trials):
    assert len(trials(allocations=["BASELINE-TEAL"], seeds=[1, 2, 3])) == 1


def test_two_names_of_one_mask_are_one_trial_under_the_first_name(trials):
    assert [t.allocation for t in trials(allocations=["TOP-75", "ADAPTIVE"])] == ["TOP-75"]


def test_a_name_that_is_not_trained_is_told_with_the_one_that_is(shape, fingerprints):
    space = SpaceConfig.model_validate(
        {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-75", "ADAPTIVE"]}
    )
    assert resolve_grid(space, shape, fingerprints)[1] == {"ADAPTIVE": "TOP-75"}


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


# Identity


@pytest.mark.parametrize(
    "same",
    [
        {"name": "mine", "layers": [3, 1, 0, 2]},
        {"name": "mine", "sites": ["2.down_proj", "0.down_proj", "03.down_proj", "1.down_proj"]},
        {"name": "UNIF-ALL", "modules": ["down_proj"]},
    ],
)
def test_two_ways_to_say_the_same_mask_have_one_identity(identity, same):
    half = "UNIF-ALL" if same["name"] == "UNIF-ALL" else "TOP-50"
    assert identity(allocations=[same]) == identity(allocations=[half])


@pytest.mark.parametrize(
    "same",
    [
        {"plan": {"modules": ["down_proj"]}},
        {"plan": {"layers": [7, 6, 5, 4, 3, 2, 1, 0]}},
        {"plan": {"levels": {"3.down_proj": 0.5}}},
        {"name": "other"},
        {"resources": {"cpus_per_trial": 4}},
        {"training": {"init_scale": 0.9}},
        {"resources": {"accelerator_type": "A100", "max_failures": 5, "max_minutes": 9, "price_per_hour": 2.5}},
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_identity(identity, same):
    assert identity(**same) == identity()


@pytest.mark.parametrize(
    "different",
    [
        {"allocations": ["BOTTOM-50"]},
        {"allocations": ["BASELINE-TEAL"]},
        {"sparsity": [0.6]},
        {"seeds": [43]},
        {"model": {"dtype": "bfloat16"}},
        {"plan": {"rule": "topk"}},
        {"plan": {"tokens": "second_half"}},
        {"plan": {"levels": {"3.down_proj": 0.4}}},
        {"plan": {"modules": ["o_proj", "down_proj"]}},
        {"plan": {"calibration_blocks": 8}},
        {"training": {"lr": 1e-3}},
        {"training": {"epochs": 1}},
        {"training": {"form": "input_vector"}},
        {"training": {"init": "bias_correction"}},
        {"training": {"init": "bias_correction", "gain_lr": 0.1}},
        {"training": {"warmup_steps": 2}},
        {"training": {"weight_decay": 0.1}},
        {"resources": {"gpus_per_trial": 1}},
    ],
    ids=str,
)
def test_what_changes_the_result_changes_the_identity(identity, different):
    assert identity(**different) != identity()


def test_the_scale_of_an_init_is_part_of_the_identity_where_it_is_used(identity):
    scales = [{"training": {"init": "bias_correction", "init_scale": scale}} for scale in (0.5, 0.9)]
    assert identity(**scales[0]) != identity(**scales[1])


def test_the_rule_of_a_plan_without_sites_is_no_part_of_the_identity(identity):
    dense = {"sparsity": [0.0], "allocations": ["BASELINE-TEAL"]}
    assert identity(**dense, plan={"rule": "topk"}) == identity(**dense, plan={"calibration_blocks": 8})


@pytest.mark.parametrize("changes", [{"training": {"lr": 1e-3}}, {"seeds": [1]}])
def test_training_is_no_part_of_a_baselines_identity(identity, changes):
    baseline = {"allocations": ["BASELINE-TEAL"]}
    assert identity(**baseline, **changes) == identity(**baseline)


@pytest.mark.parametrize("other", [Fingerprints("other", "c"), Fingerprints("m", "other")])
def test_another_model_or_corpus_is_another_identity(shape, fingerprints, other):
    space = SpaceConfig.model_validate(
        {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-50"]}
    )
    (one,), (two,) = resolve_space(space, shape, fingerprints), resolve_space(space, shape, other)
    assert one.identity != two.identity
