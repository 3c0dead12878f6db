"""The cost model against what really happens: operations that torch counts, tensors that autograd keeps, files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.config import TrainingConfig
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig, TrialPlan
from trainables import cost
from trainables.cost import (
    activation_bytes,
    claim_gpu,
    forward_flop,
    gpu_bytes,
    step_flop,
    steps_per_epoch,
    teacher_bytes,
    total_steps,
)
from trainables.loss import linear_kl
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.workbench import Workbench


@pytest.mark.parametrize(
    ("blocks", "batch", "accumulate", "steps"), [(16, 4, 1, 4), (17, 4, 1, 5), (16, 4, 3, 2), (3, 8, 1, 1)]
)
def test_an_epoch_has_a_step_for_every_started_batch(blocks: int, batch: int, accumulate: int, steps: int) -> None:
    training = TrainingConfig(batch_size=batch, gradient_accumulation_steps=accumulate, epochs=3)
    assert steps_per_epoch(blocks, training) == steps
    assert total_steps(blocks, training) == 3 * steps


def flop_of(work: Callable[[], object]) -> float:
    """Operations of the products with weights; attention's own are left out, as in the model."""
    with FlopCounterMode(display=False) as counter:
        work()
    return sum(
        n
        for op, n in counter.get_flop_counts()["Global"].items()
        if "attention" not in str(op) and "bmm" not in str(op)
    )


def sparse_loss(bench: Workbench, sites: tuple[Site, ...]) -> Tensor:
    tokens, teacher = bench.blocks("calibration").tokens, bench.teacher("calibration")
    levels = {str(site): 0.5 for site in sites}
    plan = TrialPlan(levels=levels, rule="threshold", tokens="all", calibration_blocks=16)
    with sparsified(bench.model, plan, bench.thresholds(plan), SponBiases(bench.model, sites, "output_bias")):
        hidden = bench.model.hidden(tokens).flatten(0, 1)
        return linear_kl(hidden, bench.model.head, teacher.mean_row.flatten(0, 1), teacher.entropy.flatten())


def test_the_operations_of_a_forward_pass_are_those_that_torch_counts(tiny_bench: Workbench) -> None:
    tokens = tiny_bench.blocks("calibration").tokens
    counted = flop_of(lambda: tiny_bench.model.network(input_ids=tokens))
    assert forward_flop(tiny_bench.model.shape, tokens.numel()) == pytest.approx(counted)


@pytest.mark.parametrize("sites", [("0.down_proj", "1.down_proj"), ("1.o_proj",), ("1.down_proj",)])
def test_the_operations_of_a_step_are_those_that_torch_counts(tiny_bench: Workbench, sites: tuple[str, ...]) -> None:
    parsed = tuple(map(Site.parse, sites))
    tiny_bench.teacher("calibration")
    sparse_loss(tiny_bench, parsed)  # thresholds are calibrated once
    counted = flop_of(lambda: sparse_loss(tiny_bench, parsed).backward())
    n_tokens = tiny_bench.blocks("calibration").tokens.numel()
    assert step_flop(tiny_bench.model.shape, n_tokens, parsed) == pytest.approx(counted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_activations_are_what_autograd_keeps(tiny_trial: TrialConfig, dtype: str) -> None:
    bench = Workbench(tiny_trial.model.model_copy(update={"dtype": dtype}), tiny_trial.corpus, "cpu")
    bench.model.network.set_attn_implementation("sdpa")  # a GPU's; in fp32 it keeps more
    frozen = {parameter.data_ptr() for parameter in bench.model.network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sites = (Site(0, "q_proj"), Site(0, "down_proj"), Site(1, "down_proj"))
    bench.teacher("calibration")
    sparse_loss(bench, sites)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sparse_loss(bench, sites)
    n_tokens = bench.blocks("calibration").tokens.numel()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert activation_bytes(bench.model.shape, n_tokens, dtype) == pytest.approx(measured, rel=0.15)


def test_the_teacher_is_as_large_as_foretold(
    tiny_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPON_CACHE", str(tmp_path))
    tiny_bench.teacher("validation")
    (file,) = tmp_path.glob("teacher/*/stats.safetensors")
    n_tokens = tiny_bench.blocks("validation").tokens.numel()
    assert file.stat().st_size == pytest.approx(teacher_bytes(tiny_bench.model.shape, n_tokens), rel=0.02)


def test_memory_grows_with_batch_text_and_dtype(tiny_bench: Workbench) -> None:
    shape, small, large = tiny_bench.model.shape, TrainingConfig(batch_size=1), TrainingConfig(batch_size=8)
    base = gpu_bytes(shape, "bfloat16", 128, 1000, small)
    assert gpu_bytes(shape, "bfloat16", 128, 1000, large) > base
    assert gpu_bytes(shape, "bfloat16", 128, 2000, small) == base + teacher_bytes(shape, 1000)
    assert gpu_bytes(shape, "float32", 128, 1000, small) > base


class FakeGpu:
    """A GPU of 1000 bytes."""

    total_memory = 1000


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The fractions that a process was held to."""
    fractions: list[float] = []
    monkeypatch.setattr(cost, "check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: FakeGpu())
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    return fractions


def test_a_trial_is_held_to_its_share_and_refused_if_it_is_larger(gpu: list[float]) -> None:
    claim_gpu(400, 0.5)
    assert gpu == [0.5]
    with pytest.raises(SponError, match=r"must fit into its share.*0\.25 of Fake.*at resources\.gpus_per_trial"):
        claim_gpu(400, 0.25)
    assert gpu == [0.5]


def test_a_gpu_that_is_not_there_cannot_be_claimed() -> None:
    with pytest.raises(SponError, match="CUDA is not available"):
        claim_gpu(1, 1.0)
