"""The same trial on a GPU as on a CPU. These tests run where there is one: pytest -m gpu."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from search_spaces.config import TrainingConfig
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.importance import by_gain, by_gradient
from trainables.proxy import MaskScorer
from trainables.training import Trainer
from trainables.trial import run_trial
from trainables.workbench import Workbench

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


@pytest.fixture(params=["topk", "threshold"])
def trial(tiny_trial: TrialConfig, request: pytest.FixtureRequest) -> TrialConfig:
    plan = tiny_trial.plan.model_copy(update={"rule": request.param, "calibration_blocks": 16})
    return tiny_trial.model_copy(update={"plan": plan})


def bench_of(trial: TrialConfig, device: str, dtype: str = "float32") -> Workbench:
    return Workbench(trial.model.model_copy(update={"dtype": dtype}), trial.corpus, device)


def trainer_of(bench: Workbench, trial: TrialConfig, **keys: object) -> Trainer:
    training = TrainingConfig(**({"lr": 0.01, "batch_size": 4, "epochs": 4} | keys))  # type: ignore[arg-type]
    return Trainer(bench, trial.plan, tuple(Site.parse(site) for site in trial.sites), training)


def joined(trainer: Trainer) -> Tensor:
    return torch.cat(list(trainer.biases.state().values()))


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_training_gives_the_biases_of_a_cpu(trial, form):
    ends = []
    for device in ("cpu", "cuda"):
        trainer = trainer_of(bench_of(trial, device), trial, form=form, init="bias_correction", gain_lr=0.1)
        trainer.train_until(12)
        ends.append(joined(trainer))
    assert torch.cosine_similarity(ends[0], ends[1], dim=0) > 0.999


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.95)])
def test_a_recorded_and_compiled_pass_has_the_gradient_of_a_plain_one(trial, dtype, least, monkeypatch):
    """Six blocks in passes of four: graphs of two sizes, each played again with other blocks.

    In bfloat16 an entry next to a threshold changes sides by its last bit, and each is one of 32 here.
    """
    bench, gradients = bench_of(trial, "cuda", dtype), []
    for plain in (True, False):
        monkeypatch.setattr("trainables.training.can_compile", lambda device, plain=plain: not plain)
        trainer = trainer_of(bench, trial, gradient_accumulation_steps=2)
        trainer.recorded = None if plain else trainer.recorded
        found = []
        with trainer.sparse_model():
            for start in range(6):
                trainer.add_gradient(torch.arange(start, start + 6, device="cuda"))
                found.append(torch.cat([vector.grad.double() for vector in trainer.biases.parameters()]))
        gradients.append(torch.stack(found))
    cosines = torch.cosine_similarity(gradients[0], gradients[1], dim=1)
    assert (cosines > least).all(), cosines


def test_a_run_that_is_taken_up_again_ends_with_the_same_biases(trial, tmp_path: Path):
    bench = bench_of(trial, "cuda", "bfloat16")
    whole, first, second = (trainer_of(bench, trial) for _ in range(3))
    whole.train_until(16)
    first.train_until(7)
    first.save(tmp_path)
    second.load(tmp_path)
    second.train_until(16)
    assert torch.equal(joined(second), joined(whole))


def test_a_whole_trial_scores_as_on_a_cpu(trial):
    found = [run_trial(bench_of(trial, device), trial).meta.metrics for device in ("cpu", "cuda")]
    for name in ("val_kl_nats", "val_ppl", "val_teal_kl_nats", "val_dense_ppl"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3)


def test_curves_gradients_gains_and_masks_are_those_of_a_cpu(trial):
    found = []
    for device in ("cpu", "cuda"):
        bench, sites = bench_of(trial, device), tuple(Site.parse(site) for site in trial.sites)
        biases = {site: torch.ones(bench.model.shape.sites[site].out_features) * 0.01 for site in sites}
        masks = MaskScorer(bench, trial.plan, biases, "output_bias")
        groups = [frozenset({site}) for site in sites]
        values = [
            *bench.fisher_curves(trial.plan, range(8)).mean.flatten().tolist(),
            *by_gradient(bench, trial.plan, groups, 16, "output_bias").value,
            *by_gain(bench, trial.plan, biases, 16).value,
            masks.scores(frozenset(sites[:1]), 8).kl_nats,
        ]
        found.append(torch.tensor(values))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=1e-4)


def test_a_pass_for_which_memory_is_short_is_halved_and_goes_on(trial, monkeypatch, capsys):
    trainer, loss = trainer_of(bench_of(trial, "cuda"), trial), Trainer._loss
    monkeypatch.setattr(Trainer, "_loss", lambda self, rows: loss(self, rows) if len(rows) < 4 else _short_of_memory())
    trainer.train_until(6)
    assert trainer.blocks_a_pass == 2
    assert "going on with 2" in capsys.readouterr().out


def _short_of_memory() -> Tensor:
    raise torch.OutOfMemoryError("as if")
