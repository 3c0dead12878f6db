"""The workbench: shared by all trials, asks the dense model only once, and keeps the test split closed."""

import pytest

from search_spaces.errors import SponError
from search_spaces.sites import Site
from tests.trainables.conftest import elsewhere
from trainables import teal, workbench
from trainables.workbench import Workbench


@pytest.fixture
def threshold_plan(tiny_trial):
    return tiny_trial.plan.model_copy(update={"rule": "threshold", "calibration_blocks": 4})


@pytest.fixture
def bench(tiny_bench: Workbench, spon_cache: object) -> Workbench:
    """A workbench that finds nothing in the cache."""
    return tiny_bench


def poison(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(workbench, name, lambda *args: pytest.fail(f"{name} was called again"))


def test_the_test_split_is_closed_unless_it_is_opened(tiny_bench, tiny_trial):
    for reach in (
        lambda: tiny_bench.blocks("test"),
        lambda: tiny_bench.teacher("test"),
        lambda: tiny_bench.dense_baseline("test"),
        lambda: tiny_bench.teal_baseline(tiny_trial.plan, "test"),
    ):
        with pytest.raises(SponError, match="the test split is for the final report only"):
            reach()


def test_what_an_open_workbench_has_cached_stays_closed_to_others(tiny_bench, tiny_trial):
    bench = Workbench(tiny_trial.model, tiny_trial.corpus, "cpu", open_test=True)
    bench.teal_baseline(tiny_trial.plan, "test")
    with pytest.raises(SponError, match="the test split is for the final report only"):
        tiny_bench.teal_baseline(tiny_trial.plan, "test")


@pytest.mark.parametrize("what", ["model", "corpus"])
def test_a_trial_of_another_model_or_corpus_is_refused(tiny_bench, tiny_trial, what):
    with pytest.raises(SponError, match=f"a trial must run on its own {what}, but it was made for other and this is"):
        tiny_bench.check(tiny_trial.model_copy(update={f"{what}_fingerprint": "other"}))


def test_thresholds_come_from_the_calibration_blocks_that_were_asked_for(bench, threshold_plan, monkeypatch):
    seen = []

    def histograms(model: object, tokens: object, *rest: object) -> object:
        seen.append(tokens)
        return teal.magnitude_histograms(model, tokens, *rest)

    monkeypatch.setattr(workbench, "magnitude_histograms", histograms)
    bench.thresholds(threshold_plan)
    bench.thresholds(threshold_plan.model_copy(update={"calibration_blocks": 99}))
    calibration = bench.blocks("calibration").tokens
    assert [len(tokens) for tokens in seen] == [4, len(calibration)]
    assert seen[0].equal(calibration[:4])


def test_histograms_are_counted_once_for_all_levels(bench, threshold_plan, tiny_trial, monkeypatch):
    bench.thresholds(threshold_plan)
    poison(monkeypatch, "magnitude_histograms")
    lower = threshold_plan.model_copy(update={"levels": dict.fromkeys(threshold_plan.levels, 0.2)})
    fresh = Workbench(tiny_trial.model, tiny_trial.corpus, "cpu")
    site = Site(0, "down_proj")
    assert (
        fresh.thresholds(lower)[site] < fresh.thresholds(threshold_plan)[site] == bench.thresholds(threshold_plan)[site]
    )


def test_another_token_policy_has_thresholds_of_its_own(bench, threshold_plan, monkeypatch):
    bench.thresholds(threshold_plan)
    poison(monkeypatch, "magnitude_histograms")
    with pytest.raises(pytest.fail.Exception):
        bench.thresholds(threshold_plan.model_copy(update={"tokens": "second_half"}))


def test_the_teal_baseline_of_a_plan_is_measured_once_for_all_workbenches(bench, tiny_trial, monkeypatch):
    first = bench.teal_baseline(tiny_trial.plan, "validation")
    poison(monkeypatch, "score")
    again = Workbench(tiny_trial.model, tiny_trial.corpus, "cpu").teal_baseline(tiny_trial.plan, "validation")
    assert again.scores.kl_nats == first.scores.kl_nats
    assert again.realised_sparsity == first.realised_sparsity


@pytest.mark.parametrize(
    "change",
    [{"levels": {"0.down_proj": 0.5}}, {"tokens": "second_half"}, {"rule": "threshold", "calibration_blocks": 4}],
)
def test_another_plan_has_a_baseline_of_its_own(bench, tiny_trial, monkeypatch, change):
    bench.teal_baseline(tiny_trial.plan, "validation")
    poison(monkeypatch, "score")
    with pytest.raises(pytest.fail.Exception):
        bench.teal_baseline(tiny_trial.plan.model_copy(update=change), "validation")


def test_the_teal_baseline_does_damage_and_tells_what_it_zeroed(tiny_bench, tiny_trial):
    baseline = tiny_bench.teal_baseline(tiny_trial.plan, "validation")
    assert 0.03 < baseline.scores.kl_nats < 0.5
    assert baseline.realised_sparsity == {site: 29 / 48 for site in tiny_trial.plan.levels}


def test_a_plan_without_sites_is_the_dense_model(tiny_bench, tiny_trial):
    empty = tiny_trial.plan.model_copy(update={"levels": {}, "rule": "threshold"})
    baseline = tiny_bench.teal_baseline(empty, "validation")
    assert baseline.scores.kl_nats == 0
    assert baseline.scores.nll_nats == tiny_bench.dense_baseline("validation").nll_nats
    assert baseline.realised_sparsity == {}


def test_two_dtypes_share_no_baseline(bench, tiny_trial, monkeypatch):
    bench.teal_baseline(tiny_trial.plan, "validation")
    poison(monkeypatch, "score")
    other = Workbench(tiny_trial.model.model_copy(update={"dtype": "bfloat16"}), tiny_trial.corpus, "cpu")
    with pytest.raises(pytest.fail.Exception):
        other.teal_baseline(tiny_trial.plan, "validation")


@pytest.mark.parametrize(
    "ask",
    [
        lambda bench, plan: bench.thresholds(plan),
        lambda bench, plan: bench.mean_removed(plan),
        lambda bench, plan: bench.teal_baseline(plan, "validation"),
    ],
    ids=["histograms", "means", "baselines"],
)
def test_two_devices_share_nothing_in_the_cache(bench, threshold_plan, monkeypatch, ask):
    keys = []

    def refuse(kind: str, key: str, build: object) -> None:
        keys.append(key)
        raise LookupError

    monkeypatch.setattr(workbench, "cached", refuse)
    here = bench.model
    for model in (here, here, elsewhere(here)):
        bench.model = model
        with pytest.raises(LookupError):
            ask(bench, threshold_plan)
    assert keys[0] == keys[1] != keys[2]
