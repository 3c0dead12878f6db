"""Every tensor of a trial is where it belongs, shown without a GPU: on a device that has shapes but no values.

``test_placement`` runs this.

What this cannot see: attention by torch's kernels, the recording and compiling of passes, Triton, the pass back of the
curves and their rule ``topk``, counts that depend on values (``bincount``, histograms), the optimiser, and whatever
reads a value (``item``). ``test_on_gpu`` sees them where there is a GPU.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import LlamaConfig, LlamaForCausalLM

from search_spaces.config import TrainingConfig
from search_spaces.resolve import Fingerprints
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables import curves, evaluation, importance, loss, spon, teacher, teal, training
from trainables.model import resident as model
from trainables.model.resident import ModelSource, ResidentModel, shape_of
from trainables.sparse import sparsified
from trainables.teacher import Teacher
from trainables.text.corpus import Blocks
from trainables.workbench import Materials, Workbench

BLOCKS, LENGTH, HIDDEN = 6, 8, 32


@pytest.fixture(scope="module")
def gpu() -> str:
    """A device that tensors cannot leave or reach without being told to."""
    _setup_privateuseone_for_python_backend("gpu")
    return "gpu"


@pytest.fixture
def bench(gpu: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["FakeBench"]:
    for sizes in (loss.CHUNK_TOKENS, model._INFERENCE_TOKENS, curves._TOKENS):
        monkeypatch.setitem(sizes, gpu, sizes["cuda"])
    with FakeTensorMode():
        yield FakeBench(gpu)


class FakeBench(Workbench):
    """A workbench of tensors without values, its text on the CPU as always."""

    def __init__(self, device: str) -> None:
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
        config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
        network = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
        for module in network.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to(device), requires_grad=False)
            for name, buffer in list(module._buffers.items()):
                module._buffers[name] = buffer if buffer is None else buffer.to(device)
        self.model = ResidentModel(network, shape_of(network, "fake"), "fake")
        source = ModelSource("fake", None, "fake", False)
        self.materials = Materials(source, self.model.shape, Path("fake"), Fingerprints("fake", "fake"))
        tokens = torch.zeros(BLOCKS, LENGTH, dtype=torch.int64)
        self._blocks = {"calibration": Blocks(tokens, tokens), "validation": Blocks(tokens, tokens)}

    def teacher(self, split: str, temperature: float = 1.0) -> Teacher:
        hidden = torch.zeros(BLOCKS, LENGTH, HIDDEN).to(self.model.device)
        return Teacher(hidden, hidden[..., 0], hidden[:, 1:, 0])

    def thresholds(self, plan: TrialPlan) -> dict[Site, float]:
        return {Site.parse(site): 0.5 for site in plan.levels} if plan.rule == "threshold" else {}

    def mean_removed(self, plan: TrialPlan) -> dict[Site, Tensor]:
        shapes = self.model.shape.sites
        return {Site.parse(site): torch.zeros(shapes[Site.parse(site)].in_features) for site in plan.levels}


def plan_of(bench: Workbench, rule: str, tokens: str = "all") -> TrialPlan:
    levels = {str(site): 0.5 for site in bench.model.shape.sites if site.module != "k_proj"}
    return TrialPlan(levels=levels, rule=rule, tokens=tokens, calibration_blocks=2)  # type: ignore[arg-type]


def trainer_of(bench: Workbench, rule: str, form: str = "output_bias", tokens: str = "all") -> training.Trainer:
    keys = TrainingConfig(form=form, init="bias_correction", gain_lr=0.1, batch_size=2)  # type: ignore[arg-type]
    return training.Trainer(bench, plan_of(bench, rule, tokens), tuple(bench.model.shape.sites)[3:], keys)


def gradient_of(bench: Workbench, rule: str, form: str = "output_bias", tokens: str = "all") -> set[str]:
    """Where the gradients of a step are."""
    trainer = trainer_of(bench, rule, form, tokens)
    with trainer.sparse_model():
        trainer.add_gradient(trainer._rows(0))
    named = [*trainer.biases.parameters(), *trainer.biases.gains.values()]
    return {"none" if vector.grad is None else vector.grad.device.type for vector in named}


@pytest.mark.parametrize("rule", ["topk", "threshold"])
@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
@pytest.mark.parametrize("tokens", ["all", "second_half"])
@pytest.mark.parametrize("alike", [False, True])
def test_a_gradient_is_where_the_model_is(bench, rule, form, tokens, alike, monkeypatch):
    monkeypatch.setattr(training, "can_compile", lambda device: alike)
    monkeypatch.setattr(training, "compiled", nullcontext)
    assert gradient_of(bench, rule, form, tokens) == {"gpu"}


def test_statistics_scores_and_means_are_computed_where_the_model_is(bench):
    tokens, plan = bench.blocks("calibration").tokens, plan_of(bench, "threshold")
    stats = teacher._statistics(bench.model, tokens, 1.0)
    assert {value.device.type for value in stats.values()} == {"cpu"}
    with sparsified(bench.model, plan, bench.thresholds(plan)):
        nll, kl = evaluation.token_scores(bench.model, bench.blocks("validation"), bench.teacher("validation"))
    assert (nll.device.type, kl.device.type) == ("cpu", "cpu")
    means = teal.mean_removed(bench.model, plan, bench.thresholds(plan), tokens)
    assert {mean.device.type for mean in means.values()} == {"cpu"}


def test_curves_add_up_where_the_model_is(bench):
    """Called as the pass back would call it, whose thread of its own does not know this device."""
    plan, tokens = plan_of(bench, "threshold"), bench.blocks("calibration").tokens
    cuts = {Site.parse(site): torch.zeros(len(curves.LEVELS)) for site in plan.levels}
    watch = curves._Watch(bench.model, plan, cuts, draws=1)
    hidden = bench.model.hidden(tokens.to(bench.model.device)).detach()
    chance = torch.zeros(1, *tokens.shape).to(bench.model.device)
    (gradient,) = curves._label_gradients(hidden, loss.operand(bench.model.head), torch.bfloat16, chance)
    watch._add(watch.sites[0], 0, hidden, gradient)
    assert watch.total.device.type == "gpu"


def test_gradients_of_the_layers_reach_the_cpu(bench, monkeypatch):
    plan = plan_of(bench, "threshold")
    biases = spon.SponBiases(bench.model, tuple(bench.model.shape.sites), "output_bias")
    monkeypatch.setattr(Tensor, "numpy", lambda self: self)
    found = importance._block_gradients(bench, plan, biases, BLOCKS)
    assert {gradient.device.type for gradient in found.values()} == {"cpu"}


def _plant_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    build = spon.SiteBias.__init__
    monkeypatch.setattr(spon.SiteBias, "__init__", lambda self, width, form, device: build(self, width, form, "cpu"))


def _plant_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = torch.zeros(BLOCKS, LENGTH, HIDDEN)
    stats = Teacher(zeros, zeros[..., 0], zeros[:, 1:, 0])
    monkeypatch.setattr(FakeBench, "teacher", lambda self, *of: stats)


def _plant_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spon.SiteBias, "free_gain", _free_gain_on_the_cpu)


def _free_gain_on_the_cpu(self: spon.SiteBias) -> nn.Parameter:
    self.start, self.gain = torch.zeros(self.vector.shape), nn.Parameter(torch.zeros(()).to(self.vector.device))
    return self.gain


@pytest.mark.parametrize("plant", [_plant_biases, _plant_teacher, _plant_start])
def test_a_tensor_that_stays_on_the_cpu_is_caught(bench, plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(RuntimeError, match="device"):
        gradient_of(bench, "threshold")


def test_text_that_stays_on_the_cpu_is_caught(bench):
    with pytest.raises(RuntimeError, match="device"):
        bench.model.hidden(bench.blocks("calibration").tokens)
