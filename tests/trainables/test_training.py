"""Training: the study's gradient, and a run that is the same however it is cut up."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.config import TrainingConfig
from search_spaces.errors import SponError
from search_spaces.sites import Site
from trainables.training import Trainer, epoch_order, learning_rate
from trainables.workbench import Workbench

SITES = (Site(0, "down_proj"), Site(1, "down_proj"))
SPARSITY = 0.6


@pytest.fixture
def make(tiny_bench: Workbench, tiny_trial: object) -> Callable[..., Trainer]:
    """Makes a trainer of the tiny trial with other training keys."""

    def trainer(**changes: object) -> Trainer:
        training = TrainingConfig(**(tiny_trial.training.model_dump() | changes))
        return Trainer(tiny_bench, tiny_trial.plan, SITES, training)

    return trainer


def vectors(trainer: Trainer) -> list[Tensor]:
    return list(trainer.biases.state().values())


def trained(trainer: Trainer, steps: int = 10**6) -> list[Tensor]:
    trainer.train_until(steps)
    return vectors(trainer)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class StudyReference:
    """The method of the seed study: a dense and a sparse pass, hooks on outputs, the KL of full log-softmaxes."""

    def __init__(self, bench: Workbench) -> None:
        self.network = bench.model.network
        self.layers = [bench.model.linear(site) for site in SITES]
        self.biases = [nn.Parameter(torch.zeros(layer.out_features)) for layer in self.layers]

    def loss(self, tokens: Tensor, temperature: float = 1.0) -> Tensor:
        dense = self.network(input_ids=tokens).logits / temperature
        with ExitStack() as stack:
            for layer, bias in zip(self.layers, self.biases, strict=True):

                def replace(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor, bias: Tensor = bias) -> Tensor:
                    (x,) = inputs
                    kept = int(x.shape[-1] * (1 - SPARSITY))
                    smallest = x.abs().sort(dim=-1, descending=True).values[..., kept - 1 : kept]
                    return F.linear(x * (x.abs() >= smallest), layer.weight) + bias

                stack.callback(layer.register_forward_hook(replace).remove)
            sparse = self.network(input_ids=tokens).logits / temperature
        log_p, log_q = dense.log_softmax(-1), sparse.log_softmax(-1)
        return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_and_gradient_are_the_study_ones(tiny_bench, make, temperature):
    trainer = make(max_grad_norm=1e9, temperature=temperature)
    result = trainer.train_until(1)
    reference = StudyReference(tiny_bench)
    rows = epoch_order(0, 16, 42)[:4]
    loss = reference.loss(tiny_bench.blocks("calibration").tokens[rows], temperature)
    assert result["train_loss_nats"] == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(trainer.biases.parameters(), torch.autograd.grad(loss, reference.biases), strict=True):
        assert (ours.grad - theirs).norm() < 1e-5 * theirs.norm()


def test_three_steps_of_clipped_adamw_give_the_study_biases(tiny_bench, make):
    trainer = make(max_grad_norm=0.01, weight_decay=5.0, batch_size=8)
    trainer.train_until(3)
    reference = StudyReference(tiny_bench)
    optimizer = torch.optim.AdamW(reference.biases, lr=0.03, weight_decay=5.0)
    orders = torch.cat([epoch_order(epoch, 16, 42) for epoch in range(2)])
    for rows in orders.split(8)[:3]:
        optimizer.zero_grad()
        reference.loss(tiny_bench.blocks("calibration").tokens[rows]).backward()
        assert torch.nn.utils.clip_grad_norm_(reference.biases, 0.01) > 0.01  # the clip does something
        optimizer.step()
    for ours, theirs in zip(vectors(trainer), reference.biases, strict=True):
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9999
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()


def test_training_starts_from_zero_or_from_a_share_of_the_mean_that_sparsity_removes(tiny_bench, tiny_trial, make):
    assert not any(vector.any() for vector in vectors(make()))
    means = tiny_bench.mean_removed(tiny_trial.plan)
    for site, vector in make(init="bias_correction", init_scale=0.25).biases.vectors.items():
        torch.testing.assert_close(vector.data, tiny_bench.model.linear(site).weight @ means[site].float() / 4)


def test_gains_scale_the_start_and_are_trained_beside_the_vectors(make):
    """Where vectors hardly move, each stays on the line of its start, and Adam's first step is its rate."""
    trainer = make(init="bias_correction", lr=1e-12, gain_lr=0.25, max_steps=1)
    before = vectors(trainer)
    after = trained(trainer)
    for start, end in zip(before, after, strict=True):
        gain = (end @ start / (start @ start)).item()
        assert gain in (pytest.approx(1.25, abs=1e-3), pytest.approx(0.75, abs=1e-3))
        torch.testing.assert_close(end, gain * start, rtol=1e-4, atol=1e-8)


def test_every_epoch_and_seed_has_an_order_of_its_own_in_which_each_block_comes_once():
    orders = [epoch_order(epoch, 16, seed).tolist() for epoch, seed in ((0, 42), (1, 42), (2, 42), (0, 43))]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.5]),
        ({"schedule": "cosine"}, [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5]),
        ({"schedule": "cosine", "warmup_steps": 8}, [0.125, 0.25, 0.375, 0.5]),
    ],
    ids=str,
)
def test_the_rate_of_a_step_is_that_of_its_schedule(make, keys, rates):
    assert [learning_rate(step, 4, TrainingConfig(lr=1.0, **keys)) for step in range(4)] == pytest.approx(rates)
    trainer = make(lr=0.04, max_steps=4, **keys)
    trainer.train_until(1)  # Adam's first step is its rate
    assert max(vector.abs().max().item() for vector in vectors(trainer)) == pytest.approx(0.04 * rates[0], rel=1e-3)


@pytest.mark.parametrize("batches", [(2, 4), (1, 8), (3, 3)])
def test_accumulated_gradients_are_those_of_the_large_batch(make, batches):
    size, times = batches
    parts = trained(make(batch_size=size, gradient_accumulation_steps=times))
    whole = trained(make(batch_size=size * times))
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Gives the device memory for passes of so many blocks, and lists the passes that were tried."""
    plain = Trainer._loss

    def room_for(blocks: int) -> list[int]:
        tried: list[int] = []

        def loss(self: Trainer, rows: Tensor) -> Tensor:
            tried.append(len(rows))
            if len(rows) > blocks:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return plain(self, rows)

        monkeypatch.setattr(Trainer, "_loss", loss)
        return tried

    return room_for


@pytest.mark.parametrize("max_grad_norm", [1e3, 1e-3])
@pytest.mark.parametrize(("blocks", "passes"), [(4, [8, 4, 4]), (3, [8, 4, 2, 2, 2, 2]), (1, [8, 4, 2] + [1] * 8)])
def test_short_of_memory_a_step_is_the_same_in_smaller_passes(make, short_of_memory, blocks, passes, max_grad_norm):
    changes = {"batch_size": 8, "max_grad_norm": max_grad_norm}
    whole, halved = make(**changes), make(**changes)
    expected = [whole.train_until(1), vectors(whole)]
    tried = short_of_memory(blocks)
    metrics, biases = halved.train_until(1), vectors(halved)
    assert tried == passes
    halved.train_until(2)  # smaller passes stay
    assert sum(tried[len(passes) :]) == 8
    assert metrics == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(biases, expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_pass_that_did_not_fit_leaves_nothing_in_the_gradient(make, monkeypatch):
    plain, calls = Trainer._loss, []

    def second_fails(self, rows):
        calls.append(len(rows))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, rows)

    changes = {"batch_size": 4, "gradient_accumulation_steps": 2}
    expected = trained(make(**changes), 1)
    monkeypatch.setattr(Trainer, "_loss", second_fails)
    for one, other in zip(trained(make(**changes), 1), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert calls == [4, 4, 2, 2, 2, 2]


def test_a_block_that_does_not_fit_is_named_with_what_to_lower(make, short_of_memory):
    short_of_memory(0)
    with pytest.raises(SponError, match=r"a training pass of one block, step 1 did not: lower training\.batch_size"):
        make().train_until(1)


def test_training_can_be_ended_between_steps(make):
    trainer = make()

    def third() -> None:
        if trainer.step == 2:
            raise SponError("enough")

    with pytest.raises(SponError, match="enough"):
        trainer.train_until(8, third)
    assert trainer.step == 2


def test_max_steps_ends_training_inside_an_epoch(make):
    trainer = make(max_steps=3)
    assert trainer.train_until(100) == {"step": 3, "epoch": 0.75, "train_loss_nats": pytest.approx(0.05, abs=0.05)}
    assert trainer.total_steps == 3


def test_the_last_step_of_an_epoch_takes_the_blocks_that_are_left(make):
    trainer = make(batch_size=5)
    assert [len(trainer._rows(step)) for step in range(5)] == [5, 5, 5, 1, 5]


def test_a_loss_that_is_not_finite_names_its_step(make, monkeypatch):
    trainer = make()
    plain = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda rows: plain(rows) * (float("nan") if trainer.step == 2 else 1))
    with pytest.raises(SponError, match=r"the loss must stay finite, but it is nan at step 3 \(at training.lr\)"):
        trainer.train_until(4)


def test_a_bias_that_is_not_finite_is_noticed(make, monkeypatch):
    trainer = make()
    monkeypatch.setattr(trainer._optimizer, "step", lambda: trainer.biases.vectors[SITES[0]].data.fill_(float("inf")))
    with pytest.raises(SponError, match="biases must stay finite, but one is not by step 1"):
        trainer.train_until(1)


@pytest.mark.parametrize("pause", [0, 1, 5])
@pytest.mark.parametrize("start", [{}, {"form": "input_vector", "init": "bias_correction", "gain_lr": 0.1}], ids=str)
def test_a_run_that_is_taken_up_again_ends_bit_for_bit_as_one_that_was_not(make, tmp_path, pause, start):
    keys = {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1, **start}
    first = make(**keys)
    if pause:
        first.train_until(pause)
    first.save(tmp_path)
    second = make(**keys)
    second.load(tmp_path)
    assert second.step == pause
    assert equal(trained(second), trained(make(**keys)))


def test_a_trainer_that_has_run_can_take_up_an_earlier_state(make, tmp_path):
    trainer = make()
    trainer.save(tmp_path)
    trainer.train_until(5)
    trainer.load(tmp_path)
    assert equal(trained(trainer), trained(make()))


def test_frozen_weights_are_not_touched(tiny_bench, make):
    before = {name: weight.clone() for name, weight in tiny_bench.model.network.state_dict().items()}
    trained(make())
    after = tiny_bench.model.network.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(parameter.grad is None for parameter in tiny_bench.model.network.parameters())


@pytest.mark.parametrize(("dtype", "form"), [("float32", "input_vector"), ("bfloat16", "output_bias")])
def test_the_loss_goes_down_and_biases_are_fp32(tiny_trial, dtype, form):
    bench = Workbench(tiny_trial.model.model_copy(update={"dtype": dtype}), tiny_trial.corpus, "cpu")
    changes = {"epochs": 8, "form": form}
    trainer = Trainer(bench, tiny_trial.plan, SITES, tiny_trial.training.model_copy(update=changes))
    first = trainer.train_until(4)["train_loss_nats"]
    trainer.train_until(28)
    assert trainer.train_until(32)["train_loss_nats"] < first
    assert all(vector.dtype == torch.float32 for vector in vectors(trainer))
