from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.config import (
    SpaceConfig,
)
from search_spaces.resolve import resolve_space
from search_spaces.trial import ALGORITHM, TrialConfig, TrialPlan


def space(**changes: Any) -> SpaceConfig:
    given = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-50"], **changes}
    return SpaceConfig.model_validate(given)


def plan(**changes: Any) -> TrialPlan:
    given = {"levels": {"0.down_proj": 0.5}, "rule": "topk", "tokens": "all", "calibration_blocks": 0}
    return TrialPlan.model_validate(given | changes)


@pytest.mark.parametrize(("tokens", "prefix"), [("all", 0), ("second_half", 64)])
def test_the_dense_prefix_follows_the_token_policy(tokens, prefix):
    assert plan(tokens=tokens).dense_prefix(128) == prefix


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "down_proj@0.50 topk"),
        ({"levels": {"0.o_proj": 0.4, "0.down_proj": 0.6, "1.o_proj": 0.5}}, "o_proj+down_proj@0.40-0.60#3835 topk"),
        ({"levels": {"0.o_proj": 0.6, "0.down_proj": 0.4, "1.o_proj": 0.5}}, "o_proj+down_proj@0.40-0.60#2e22 topk"),
        ({"levels": {}}, "dense@0.00 topk"),
        ({"tokens": "second_half", "rule": "threshold"}, "down_proj@0.50 threshold second_half"),
    ],
)
def test_a_plan_label_gives_modules_levels_rule_and_policy(shape, fingerprints, changes, label):
    (trial,) = resolve_space(space(), shape, fingerprints)
    assert trial.model_copy(update={"plan": plan(**changes)}).plan_label == label


def test_a_trial_survives_being_written_and_read(shape, fingerprints):
    (trial,) = resolve_space(space(), shape, fingerprints)
    read = TrialConfig.model_validate_json(trial.model_dump_json())
    assert read == trial
    assert read.identity == trial.identity


def test_the_scale_of_a_start_counts_only_with_that_start(shape, fingerprints):
    inits = [{}, {"init_scale": 0.9}, {"init": "bias_correction"}, {"init": "bias_correction", "init_scale": 0.9}]
    one, same, *others = (resolve_space(space(training=init), shape, fingerprints)[0].identity for init in inits)
    assert one == same
    assert len({one, *others}) == 3


def test_a_trial_is_of_the_algorithm_of_today_and_one_without_a_number_of_the_first(shape, fingerprints):
    (trial,) = resolve_space(space(), shape, fingerprints)
    raw = trial.model_dump(exclude={"algorithm"})
    assert trial.algorithm == ALGORITHM
    assert TrialConfig.model_validate(raw).algorithm == 1
    assert TrialConfig.model_validate(raw).identity != trial.identity


def test_trial_names_are_unique_in_a_sweep_and_say_what_they_are(shape, fingerprints):
    trials = resolve_space(space(sparsity=[0.5, 0.6], seeds=[1, 2]), shape, fingerprints)
    assert len({trial.name for trial in trials}) == 4
    label, _, start = trials[0].name.rpartition("_")
    assert label == "TOP-50_s0.50_seed1"
    assert start
    assert trials[0].identity.startswith(start)


def test_the_name_of_a_baseline_has_no_seed(shape, fingerprints):
    (trial,) = resolve_space(space(allocations=["BASELINE-TEAL"]), shape, fingerprints)
    assert trial.name.rpartition("_")[0] == "BASELINE-TEAL_s0.50"


def test_a_resolved_trial_must_name_its_dtype(shape, fingerprints):
    (trial,) = resolve_space(space(), shape, fingerprints)
    with pytest.raises(ValidationError, match="a resolved trial must name its dtype, but got auto"):
        TrialConfig.model_validate(trial.model_dump() | {"model": {"dtype": "auto"}})
