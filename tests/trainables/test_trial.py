"""A whole trial: metrics, early stopping, resuming, and the test split at the very end."""

from collections.abc import Callable

import pytest
import torch

from search_spaces.errors import SponError
from search_spaces.trial import TrialConfig
from tests.conftest import trials_of
from trainables import trial as module
from trainables import workbench
from trainables.checkpoint import Checkpoint
from trainables.model.resident import ResidentModel
from trainables.scores import Scores
from trainables.trial import Trial, recovery, report_test, run_trial
from trainables.workbench import Workbench


@pytest.fixture
def change(tiny_trial: TrialConfig) -> Callable[..., TrialConfig]:
    """The tiny trial with other training keys."""
    return lambda **keys: tiny_trial.model_copy(update={"training": tiny_trial.training.model_copy(update=keys)})


@pytest.fixture
def baseline(tiny_raw: dict[str, object]) -> TrialConfig:
    return trials_of(tiny_raw | {"allocations": ["BASELINE-TEAL"]})[0]


def as_if_kl_were(monkeypatch: pytest.MonkeyPatch, kls: list[float]) -> None:
    """Let the validations of a trial find these KLs, one after the other."""
    real, remaining = module.score_biases, iter(kls)

    def score_biases(*args: object) -> Scores:
        scores = real(*args)
        return Scores(**(scores.tensors() | {"block_kl": scores.block_positions * next(remaining)}))

    monkeypatch.setattr(module, "score_biases", score_biases)


def run(trial: Trial) -> Trial:
    while not trial.done:
        trial.advance()
    return trial


def same_biases(one: Checkpoint, other: Checkpoint) -> bool:
    assert one.biases.keys() == other.biases.keys()
    return all(torch.equal(one.biases[site], other.biases[site]) for site in one.biases)


def without_times(history: tuple[dict[str, float], ...]) -> list[dict[str, float]]:
    return [{name: value for name, value in metrics.items() if name != "seconds"} for metrics in history]


@pytest.mark.parametrize(
    ("dense", "teal", "spon", "share"),
    [
        (0.0, 0.4, 0.1, 0.75),
        (20.0, 30.0, 30.0, 0.0),
        (20.0, 30.0, 20.0, 1.0),
        (20.0, 30.0, 35.0, -0.5),
        (20.0, 20.0, 21.0, 0.0),
        (20.0, 19.0, 18.0, 0.0),
        (0.0, 3e-8, -1e-7, 0.0),
        (50.0, 50.00001, 50.1, 0.0),
    ],
)
def test_recovery_is_the_share_of_the_damage_and_zero_without_damage(dense, teal, spon, share):
    assert recovery(dense, teal, spon) == pytest.approx(share)


def test_metrics_have_their_units_in_their_names_and_go_together(tiny_bench, tiny_trial):
    checkpoint = run_trial(tiny_bench, tiny_trial)
    metrics, scores = checkpoint.meta.metrics, checkpoint.scores
    dense, teal, spon = (scores[f"validation.{who}"] for who in ("dense", "teal", "spon"))
    assert metrics == {
        "val_kl_nats": spon.kl_nats,
        "val_nll_nats": spon.nll_nats,
        "val_ppl": spon.ppl,
        "val_kl_recovered": (teal.kl_nats - spon.kl_nats) / teal.kl_nats,
        "val_ppl_recovered": recovery(dense.ppl, teal.ppl, spon.ppl),
        "val_teal_kl_nats": teal.kl_nats,
        "val_teal_ppl": teal.ppl,
        "val_dense_ppl": dense.ppl,
        "realised_sparsity": pytest.approx(1 - 19 / 48),  # topk keeps 19 of 48 at 0.6
    }


def test_realised_sparsity_is_weighted_as_that_of_a_plan_is(tiny_bench, tiny_trial):
    levels = {"0.k_proj": 0.25, "0.down_proj": 0.75}  # 32 x 16 and 48 x 32 weights
    plan = tiny_trial.plan.model_copy(update={"levels": levels})
    metrics = run_trial(tiny_bench, tiny_trial.model_copy(update={"plan": plan})).meta.metrics
    assert metrics["realised_sparsity"] == 0.25 * 0.25 + 0.75 * 0.75


@pytest.mark.parametrize(("every", "found"), [(None, [(4, 1), (8, 2)]), (3, [(3, 0.75), (6, 1.5), (8, 2)])])
def test_history_has_a_line_for_each_validation_with_step_epoch_loss_and_time(tiny_bench, change, every, found):
    history = run_trial(tiny_bench, change(eval_every_steps=every)).meta.history
    assert [(line["step"], line["epoch"]) for line in history] == found
    assert all(line["train_loss_nats"] > 0 and line["seconds"] > 0 for line in history)


def test_a_checkpoint_says_all_that_made_it(tiny_bench, tiny_trial):
    meta = run_trial(tiny_bench, tiny_trial).meta
    assert meta.config == tiny_trial
    assert meta.paths == {f"{layer}.down_proj": f"model.layers.{layer}.mlp.down_proj" for layer in range(2)}
    assert meta.realised_sparsity == {"0.down_proj": 29 / 48, "1.down_proj": 29 / 48}
    assert meta.thresholds == {}
    assert {"torch", "transformers"} <= meta.versions.keys()


def test_a_checkpoint_of_a_threshold_plan_has_the_thresholds(tiny_raw):
    (config,) = trials_of(tiny_raw | {"plan": {"rule": "threshold"}})
    bench = Workbench(config.model, config.corpus, "cpu")
    thresholds = run_trial(bench, config).meta.thresholds
    assert thresholds == {str(site): value for site, value in bench.thresholds(config.plan).items()}
    assert len(thresholds) == 2


def test_teal_alone_is_measured_and_not_trained(tiny_bench, baseline, monkeypatch):
    monkeypatch.setattr(module, "Trainer", lambda *args: pytest.fail("trained"))
    checkpoint = run_trial(tiny_bench, baseline)
    assert checkpoint.biases == {}
    assert len(checkpoint.meta.history) == 1
    metrics = checkpoint.meta.metrics
    assert metrics["val_kl_nats"] == metrics["val_teal_kl_nats"] > 0
    assert metrics["val_kl_recovered"] == metrics["val_ppl_recovered"] == 0


def test_biases_of_several_modules_are_trained_together(tiny_raw):
    (config,) = trials_of(tiny_raw | {"allocations": ["HYBRID-QD"]})
    checkpoint = run_trial(Workbench(config.model, config.corpus, "cpu"), config)
    assert tuple(map(str, checkpoint.biases)) == config.sites
    assert {site.module for site in checkpoint.biases} == {"q_proj", "down_proj"}
    assert all(vector.any() for vector in checkpoint.biases.values())
    metrics = checkpoint.meta.metrics
    assert metrics["val_kl_nats"] < metrics["val_teal_kl_nats"]


def test_a_level_of_zero_does_no_damage_and_recovers_nothing(tiny_raw):
    (config,) = trials_of(tiny_raw | {"sparsity": [0.0], "plan": {"rule": "threshold"}})
    assert config.plan.levels == {}
    metrics = run_trial(Workbench(config.model, config.corpus, "cpu"), config).meta.metrics
    assert metrics["val_teal_kl_nats"] == metrics["val_kl_recovered"] == metrics["val_ppl_recovered"] == 0
    assert metrics["val_teal_ppl"] == metrics["val_dense_ppl"]
    # The model is its teacher: there is no gradient here, and where a machine rounds otherwise, training does harm
    assert metrics["val_kl_nats"] > -1e-6


def test_early_stopping_ends_when_patience_is_spent_and_keeps_the_best(tiny_bench, change, monkeypatch):
    as_if_kl_were(monkeypatch, [0.5, 0.3, 0.4, 0.35, 0.1])
    checkpoint = run_trial(tiny_bench, change(epochs=9, early_stopping_patience=2))
    assert [line["val_kl_nats"] for line in checkpoint.meta.history] == pytest.approx([0.5, 0.3, 0.4, 0.35])
    assert checkpoint.meta.metrics["val_kl_nats"] == pytest.approx(0.3)
    monkeypatch.undo()
    assert same_biases(checkpoint, run_trial(tiny_bench, change(epochs=9, max_steps=8)))


def test_an_equal_kl_is_no_progress(tiny_bench, change, monkeypatch):
    as_if_kl_were(monkeypatch, [0.3] * 9)
    assert len(run_trial(tiny_bench, change(epochs=9, early_stopping_patience=2)).meta.history) == 3


def test_without_early_stopping_the_last_biases_are_kept(tiny_bench, tiny_trial, monkeypatch):
    as_if_kl_were(monkeypatch, [0.3, 0.4])
    trial = run(Trial(tiny_bench, tiny_trial))
    checkpoint = trial.finish()
    assert checkpoint.meta.metrics["val_kl_nats"] == pytest.approx(0.4)
    assert all(torch.equal(checkpoint.biases[site], vector) for site, vector in trial._trainer.biases.state().items())


@pytest.mark.parametrize(
    ("keys", "pause"),
    [({}, 0), ({}, 2), ({"early_stopping_patience": 9}, 1), ({"form": "input_vector", "schedule": "cosine"}, 4)],
)
def test_a_trial_that_is_taken_up_again_ends_as_one_that_was_not(tiny_bench, change, tmp_path, keys, pause):
    config = change(epochs=4, **keys)
    first = Trial(tiny_bench, config)
    for _ in range(pause):
        first.advance()
    first.save(tmp_path)
    second = Trial(tiny_bench, config)
    second.load(tmp_path)
    resumed, whole = run(second).finish(), run_trial(tiny_bench, config)
    assert same_biases(resumed, whole)
    assert resumed.meta.metrics == whole.meta.metrics
    assert without_times(resumed.meta.history) == without_times(whole.meta.history)
    for name, scores in whole.scores.items():
        assert all(torch.equal(tensor, resumed.scores[name].tensors()[key]) for key, tensor in scores.tensors().items())


def test_patience_and_the_best_biases_survive_a_pause(tiny_bench, change, monkeypatch, tmp_path):
    config = change(epochs=9, early_stopping_patience=2)
    as_if_kl_were(monkeypatch, [0.3, 0.4, 0.5, 0.3])  # three validations, then the scores of the best biases once more
    first = Trial(tiny_bench, config)
    first.advance()
    best = first._trainer.biases.state()
    first.advance()
    first.save(tmp_path)
    second = Trial(tiny_bench, config)
    second.load(tmp_path)
    checkpoint = run(second).finish()
    assert len(checkpoint.meta.history) == 3
    assert all(torch.equal(checkpoint.biases[site], vector) for site, vector in best.items())


def test_a_trial_that_has_run_can_take_up_an_earlier_state(tiny_bench, change, tmp_path):
    config = change(max_steps=1)
    trial, other = run(Trial(tiny_bench, config)), run(Trial(tiny_bench, change(max_steps=1, lr=0.5)))
    trial.save(tmp_path)
    other.load(tmp_path)
    assert other.finish().meta.metrics == trial.finish().meta.metrics


def test_a_validation_that_is_not_finite_ends_the_trial(tiny_bench, tiny_trial, monkeypatch):
    as_if_kl_were(monkeypatch, [float("nan")])
    with pytest.raises(
        SponError, match=r"validation must be finite, but val_kl_nats is nan at step 4 \(at training.lr\)"
    ):
        Trial(tiny_bench, tiny_trial).advance()


def test_a_trial_of_another_model_is_refused_at_once(tiny_bench, tiny_trial):
    with pytest.raises(SponError, match="a trial must run on its own model"):
        Trial(tiny_bench, tiny_trial.model_copy(update={"model_fingerprint": "other"}))


def test_all_trials_of_a_plan_share_its_baseline(tiny_bench, spon_cache, tiny_trial, change, monkeypatch):
    Trial(tiny_bench, tiny_trial)
    monkeypatch.setattr(workbench, "score", lambda *args: pytest.fail("measured again"))
    Trial(tiny_bench, change(seed=7))
    Trial(Workbench(tiny_trial.model, tiny_trial.corpus, "cpu"), change(seed=8))


def test_no_trial_runs_the_dense_model_again(tiny_bench, spon_cache, tiny_trial, change, monkeypatch):
    run_trial(tiny_bench, tiny_trial)
    bench = Workbench(tiny_trial.model, tiny_trial.corpus, "cpu")

    def hidden(model: object, tokens: torch.Tensor) -> torch.Tensor:
        with pytest.raises(RuntimeError, match="must be dense"):
            model.check_dense()
        return real(model, tokens)

    real = ResidentModel.hidden
    monkeypatch.setattr(ResidentModel, "hidden", hidden)
    run_trial(bench, change(seed=7))


def test_a_trial_cannot_reach_the_test_split(tiny_bench, tiny_trial):
    checkpoint = run_trial(tiny_bench, tiny_trial)
    assert not [name for name in (*checkpoint.meta.metrics, *checkpoint.scores) if "test" in name]
    with pytest.raises(SponError, match="the test split is for the final report only"):
        report_test(tiny_bench, checkpoint)


@pytest.mark.parametrize("allocation", ["UNIF-ALL", "BASELINE-TEAL"])
def test_the_report_adds_the_test_split_and_keeps_the_rest(tiny_raw, allocation):
    (config,) = trials_of(tiny_raw | {"allocations": [allocation]})
    bench = Workbench(config.model, config.corpus, "cpu", open_test=True)
    checkpoint = run_trial(bench, config)
    reported = report_test(bench, checkpoint)
    added = {name.replace("val_", "test_") for name in checkpoint.meta.metrics}
    assert reported.meta.metrics.keys() == checkpoint.meta.metrics.keys() | added
    assert reported.meta.metrics.items() >= checkpoint.meta.metrics.items()
    assert reported.scores.keys() - checkpoint.scores.keys() == {"test.dense", "test.teal", "test.spon"}
    assert same_biases(reported, checkpoint)
    assert (reported.meta.metrics["test_kl_nats"] < reported.meta.metrics["test_teal_kl_nats"]) == bool(config.sites)


def test_the_report_refuses_a_checkpoint_of_another_model(tiny_trial):
    bench = Workbench(tiny_trial.model, tiny_trial.corpus, "cpu", open_test=True)
    checkpoint = run_trial(bench, tiny_trial)
    other = tiny_trial.model_copy(update={"model_fingerprint": "other"})
    foreign = Checkpoint(checkpoint.meta.model_copy(update={"config": other}), checkpoint.biases, checkpoint.scores)
    with pytest.raises(SponError, match="a trial must run on its own model"):
        report_test(bench, foreign)
