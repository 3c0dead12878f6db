import pytest
from pydantic import ValidationError

from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.trial import ALGORITHM, TrialConfig, TrialPlan
from tests.search_spaces.conftest import make_space


@pytest.fixture
def trial(shape, fingerprints):
    """The one trial of a small space with changes."""
    return lambda **changes: resolve_space(make_space(**changes), shape, fingerprints)[0]


@pytest.fixture
def identity(trial):
    return lambda **changes: trial(**changes).identity


def plan(**changes):
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
def test_a_plan_label_gives_modules_levels_rule_and_policy(trial, changes, label):
    assert trial().model_copy(update={"plan": plan(**changes)}).plan_label == label


def test_levels_that_were_measured_are_labelled_by_their_method_and_mean(trial):
    measured = trial(plan={"levels": {"3.down_proj": 0.4}, "level_method": "fisher"})
    assert measured.plan_label == "down_proj@0.50 fisher threshold"
    assert measured.name.startswith("TOP-50_s0.50-fisher_seed42_")


def test_trial_names_are_unique_in_a_sweep_and_say_what_they_are(shape, fingerprints):
    trials = resolve_space(make_space(sparsity=[0.5, 0.6], seeds=[1, 2]), shape, fingerprints)
    assert len({trial.name for trial in trials}) == 4
    label, _, start = trials[0].name.rpartition("_")
    assert label == "TOP-50_s0.50_seed1"
    assert trials[0].identity[:10] == start


def test_the_name_of_a_baseline_has_no_seed(trial):
    assert trial(allocations=["BASELINE-TEAL"]).name.rpartition("_")[0] == "BASELINE-TEAL_s0.50"


def test_a_resolved_trial_must_name_its_dtype(trial):
    with pytest.raises(ValidationError, match="a resolved trial must name its dtype, but got auto"):
        TrialConfig.model_validate(trial().model_dump() | {"model": {"dtype": "auto"}})


@pytest.mark.parametrize(
    ("same", "as_"),
    [
        ({"allocations": [{"name": "mine", "layers": [3, 1, 0, 2]}]}, {}),
        ({"allocations": [{"name": "a", "sites": [f"{n}.down_proj" for n in ("2", "0", "03", "1")]}]}, {}),
        ({"allocations": [{"name": "UNIF-ALL", "modules": ["down_proj"]}]}, {"allocations": ["UNIF-ALL"]}),
        ({"plan": {"modules": ["down_proj"]}}, {}),
        ({"plan": {"layers": [7, 6, 5, 4, 3, 2, 1, 0]}}, {}),
        ({"plan": {"levels": {"3.down_proj": 0.5}}}, {}),
        ({"name": "other"}, {}),
        ({"training": {"init_scale": 0.9}}, {}),
        ({"resources": {"cpus_per_trial": 4, "accelerator_type": "A100", "max_failures": 5, "max_minutes": 9}}, {}),
        # Of a baseline, no training; of a plan without sites, no rule
        ({"allocations": ["BASELINE-TEAL"], "training": {"lr": 1e-3}}, {"allocations": ["BASELINE-TEAL"]}),
        ({"allocations": ["BASELINE-TEAL"], "seeds": [1]}, {"allocations": ["BASELINE-TEAL"]}),
        (
            {"sparsity": [0.0], "allocations": ["BASELINE-TEAL"], "plan": {"rule": "topk"}},
            {"sparsity": [0.0], "allocations": ["BASELINE-TEAL"], "plan": {"calibration_blocks": 8}},
        ),
    ],
    ids=str,
)
def test_what_does_not_change_the_result_does_not_change_the_identity(identity, same, as_):
    assert identity(**same) == identity(**as_)


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
        {"training": {"init": "bias_correction", "init_scale": 0.9}},
        {"training": {"init": "bias_correction", "gain_lr": 0.1}},
        {"training": {"warmup_steps": 2}},
        {"training": {"weight_decay": 0.1}},
        {"resources": {"gpus_per_trial": 1}},
    ],
    ids=str,
)
def test_what_changes_the_result_changes_the_identity(identity, different):
    assert identity(**different) not in (identity(), identity(training={"init": "bias_correction", "init_scale": 0.8}))


@pytest.mark.parametrize("other", [Fingerprints("other", "c"), Fingerprints("m", "other")])
def test_another_model_or_corpus_is_another_identity(identity, shape, other):
    assert resolve_space(make_space(), shape, other)[0].identity != identity()


def test_a_trial_is_of_the_algorithm_of_today_and_one_without_a_number_of_the_first(trial):
    raw = trial().model_dump(exclude={"algorithm"})
    assert trial().algorithm == ALGORITHM
    assert TrialConfig.model_validate(raw).algorithm == 1
    assert TrialConfig.model_validate(raw).identity != trial().identity
