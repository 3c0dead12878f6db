"""Layers that are alike are compiled once for all, and compute what ``sparsified`` does."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from search_spaces.config import TrainingConfig
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig, TrialPlan
from trainables import training
from trainables.model import compiled
from trainables.sparse import alike_changes, changed, sparsified
from trainables.spon import SponBiases
from trainables.training import Trainer
from trainables.workbench import Workbench

FIRST, MIDDLE, LAST = Site(0, "q_proj"), Site(0, "down_proj"), Site(1, "up_proj")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Training compiles its layers on the CPU too, by a backend that changes no arithmetic and counts."""
    counter, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda f, **keys: compile_(f, backend=counter, **keys))
    monkeypatch.setattr(training, "can_compile", lambda device: True)
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


def plan_of(levels: dict[Site, float], rule: str = "threshold", tokens: str = "all") -> TrialPlan:
    named = {str(site): level for site, level in levels.items()}
    return TrialPlan(levels=named, rule=rule, tokens=tokens, calibration_blocks=4)  # type: ignore[arg-type]


@pytest.fixture
def train(tiny_bench: Workbench) -> Callable[..., list[torch.Tensor]]:
    """Biases after some steps."""

    def vectors(plan: TrialPlan, sites: tuple[Site, ...], **keys: object) -> list[torch.Tensor]:
        given = {"lr": 0.03, "batch_size": 4, "max_steps": 3} | keys
        trainer = Trainer(tiny_bench, plan, sites, TrainingConfig(**given))  # type: ignore[arg-type]
        trainer.train_until(3)
        return list(trainer.biases.state().values())

    return vectors


@pytest.mark.parametrize("rule", ["threshold", "topk"])
@pytest.mark.parametrize("keys", [{}, {"form": "input_vector"}, {"init": "bias_correction", "gain_lr": 0.1}], ids=str)
def test_compiled_training_ends_with_the_biases_of_plain_training(train, builds, monkeypatch, rule, keys):
    plan = plan_of({FIRST: 0.3, MIDDLE: 0.5, LAST: 0.7}, rule, "second_half")
    fast = train(plan, (FIRST, LAST), **keys)
    assert builds.frame_count
    monkeypatch.setattr(training, "can_compile", lambda device: False)
    for mine, plain in zip(fast, train(plan, (FIRST, LAST), **keys), strict=True):
        torch.testing.assert_close(mine, plain)


def test_other_levels_sites_and_trials_need_no_other_build(train, builds):
    every = dict.fromkeys((FIRST, MIDDLE, LAST), 0.5)
    train(plan_of(every), (FIRST, MIDDLE, LAST))
    assert builds.frame_count == 2  # the first layer, whose input needs no gradient, and the others
    for levels, sites in (({FIRST: 0.2}, (FIRST, LAST)), ({MIDDLE: 0.9, LAST: 0.1}, (MIDDLE,)), ({}, (FIRST,))):
        train(plan_of(levels), sites)
    assert builds.frame_count == 2


def test_a_recording_finds_its_tensors_at_every_stretch_of_a_training(tiny_bench: Workbench, builds):
    """A CUDA graph reads the memory of thresholds and idle biases that it was recorded with."""
    trainer = Trainer(tiny_bench, plan_of({FIRST: 0.5}), (LAST,), TrainingConfig(batch_size=4, epochs=1))
    found = []
    for step in (1, 2):
        trainer.train_until(step)
        with trainer.sparse_model():
            found.append([tiny_bench.model.linear(site).change for site in tiny_bench.model.shape.sites])
    assert all(first is second for first, second in zip(*found, strict=True))


def test_a_model_that_is_alike_everywhere_computes_what_the_sparsified_one_does(tiny_bench: Workbench):
    tokens = tiny_bench.blocks("validation").tokens
    biases = SponBiases(tiny_bench.model, (MIDDLE,), "output_bias")
    biases.load({MIDDLE: torch.randn(32, generator=torch.Generator().manual_seed(0))})
    for rule in ("threshold", "topk"):
        plan = plan_of({FIRST: 0.3, LAST: 0.7}, rule)
        given = tiny_bench.model, plan, tiny_bench.thresholds(plan), biases
        with torch.no_grad(), sparsified(*given):
            expected = tiny_bench.model.hidden(tokens)
        with torch.no_grad(), changed(tiny_bench.model, alike_changes(*given)):
            torch.testing.assert_close(tiny_bench.model.hidden(tokens), expected)


def test_the_model_is_dense_and_uncompiled_again(tiny_bench: Workbench, tiny_trial: TrialConfig, builds):
    dense = tiny_bench.model.hidden(tiny_bench.blocks("validation").tokens)
    biases = SponBiases(tiny_bench.model, (MIDDLE,), "output_bias")
    model = tiny_bench.model
    changes = alike_changes(model, tiny_trial.plan, {}, biases)
    with pytest.raises(ZeroDivisionError), changed(model, changes), compiled.compiled(model):
        _ = 1 / 0
    model.check_dense()
    assert torch.equal(model.hidden(tiny_bench.blocks("validation").tokens), dense)
    assert not builds.frame_count


def test_nothing_is_compiled_without_a_gpu_or_without_a_c_compiler(monkeypatch):
    compiled.can_compile.cache_clear()
    assert not compiled.can_compile("cpu")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert not compiled.can_compile("cuda")
    compiled.can_compile.cache_clear()
