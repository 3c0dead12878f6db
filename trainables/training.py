"""Training of the biases: AdamW on the distillation loss, the model frozen.

The state of a training run is its biases, the optimiser's moments and a step number. The data order and the learning
rate are functions of the step, so a restored run continues exactly where it stopped.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_spaces.config import TrainingConfig
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables.activity import tell
from trainables.cost import out_of_memory, steps_per_epoch, total_steps
from trainables.loss import linear_kl
from trainables.model.compiled import can_compile, compiled
from trainables.model.graph import RecordedPass
from trainables.sparse import Change, alike_changes, changed, sparsified
from trainables.spon import SponBiases
from trainables.teacher import Teacher
from trainables.workbench import Workbench

_STATE = "training.safetensors"
_STEPS_A_LOSS = 16
"""Steps between two reported losses on a GPU."""


def epoch_order(epoch: int, n_blocks: int, seed: int) -> Tensor:
    """Order of the blocks in an epoch: (n_blocks,) indices that depend on the seed and the epoch alone."""
    return torch.randperm(n_blocks, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def learning_rate(step: int, total_steps: int, training: TrainingConfig) -> float:
    """Learning rate of a step, counted from zero: linear warm-up, then the schedule down to zero at ``total_steps``."""
    if step < training.warmup_steps:
        return training.lr * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, total_steps - training.warmup_steps)
    factor = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
    }[training.schedule]
    return training.lr * factor


class Trainer:
    """Trains the biases of some sites, in canonical order, some steps at a time.

    Attributes:
        biases: the vectors in training.
        recorded: runs passes as CUDA graphs; None runs them directly.
        blocks_a_pass: blocks in one forward pass, ``batch_size`` until a GPU runs out of memory.
        step: optimiser steps done.
        total_steps: optimiser steps of the whole run.
    """

    def __init__(self, bench: Workbench, plan: TrialPlan, sites: tuple[Site, ...], training: TrainingConfig) -> None:
        self._bench, self._plan, self._training = bench, plan, training
        self._tokens = bench.blocks("calibration").tokens.to(bench.model.device)
        self._teacher: Teacher = bench.teacher("calibration", training.temperature)
        self._thresholds = bench.thresholds(plan)
        self.biases = SponBiases(bench.model, sites, training.form)
        if training.init == "bias_correction":
            self.biases.correct(bench.mean_removed(plan), training.init_scale)
        groups = [{"params": self.biases.parameters(), "weight_decay": training.weight_decay, "rate": 1.0}]
        if training.gain_lr:
            self.biases.free_gains()
            rate = training.gain_lr / training.lr
            groups.append({"params": list(self.biases.gains.values()), "weight_decay": 0.0, "rate": rate})
        self._optimizer = torch.optim.AdamW(groups)
        self._alike: dict[Site, Change] | None = None
        if can_compile(bench.model.device.type):
            self._alike = alike_changes(bench.model, plan, self._thresholds, self.biases)
        self.recorded = RecordedPass() if bench.model.device.type == "cuda" else None
        self.blocks_a_pass = training.batch_size
        self.step, self._said_loss = 0, ""
        self.steps_per_epoch = steps_per_epoch(len(self._tokens), training)
        self.total_steps = total_steps(len(self._tokens), training)

    def train_until(self, step: int, before_each: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train up to a step number or the end of the run. Returns the position and the mean loss of the steps taken.

        Args:
            step: step number to train to.
            before_each: called before each step; may end training by an exception.

        Raises:
            SponError: if one block does not fit into memory, or the loss or a bias is no longer finite. The latter
                names the step, but comes after the last one: checking each loss would make the CPU wait for the GPU.
        """
        started, losses = self.step, []
        tell("training", self.step, self.total_steps, "step")
        with self.sparse_model():
            while self.step < min(step, self.total_steps):
                before_each()
                losses.append(self.take_step())
                self.step += 1
                self._tell(losses)
        values = torch.stack(losses).tolist()
        for step_number, value in enumerate(values, start=started + 1):
            if not math.isfinite(value):
                raise SponError(f"the loss must stay finite, but it is {value} at step {step_number} (at training.lr)")
        if not all(vector.isfinite().all() for vector in self.biases.state().values()):
            raise SponError(f"biases must stay finite, but one is not by step {self.step} (at training.lr)")
        mean = sum(values) / len(values)
        return {"step": self.step, "epoch": self.step / self.steps_per_epoch, "train_loss_nats": mean}

    @contextmanager
    def sparse_model(self) -> Iterator[None]:
        """Make the model sparse and biased while the block runs, as in training, and compiled where possible."""
        model = self._bench.model
        if self._alike is not None:
            with changed(model, self._alike), compiled(model):
                yield
        else:
            with sparsified(model, self._plan, self._thresholds, self.biases):
                yield

    def _tell(self, losses: list[Tensor]) -> None:
        """Report the step and its loss; on a GPU, where reading it waits for all queued work, only now and then."""
        if losses[-1].device.type == "cpu" or self.step % _STEPS_A_LOSS == 0:
            self._said_loss = f"loss {losses[-1].item():.4f}"
        tell("training", self.step, self.total_steps, "step", self._said_loss)

    def take_step(self) -> Tensor:
        """Take one optimiser step. Returns its loss, a detached scalar, without waiting for it."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(self.step, self.total_steps, self._training)
        rows = self._rows(self.step)
        while (total := self.add_gradient(rows)) is None:
            torch.cuda.empty_cache()  # here, where no frame of the failed pass still holds its tensors
        torch.nn.utils.clip_grad_norm_([vector for _, vector in self._named()], self._training.max_grad_norm)
        self._optimizer.step()
        return total

    def add_gradient(self, rows: Tensor) -> Tensor | None:
        """Compute a step's gradient in the biases and return its loss; None if memory ran out and half a pass may fit.

        A pass counts by its share of the blocks, so that the gradient is the same in passes of any size.

        Raises:
            SponError: if a pass of one block does not fit.
        """
        self._optimizer.zero_grad(set_to_none=False)  # a recorded pass adds to the tensors it was recorded with
        total, recorded = torch.zeros((), dtype=torch.float64, device=self._bench.model.device), self.recorded
        try:
            for start in range(0, len(rows), self.blocks_a_pass):
                batch = rows[start : start + self.blocks_a_pass].to(total.device, non_blocking=True)
                share = torch.full_like(total, len(batch) / len(rows))
                total += self._run_pass(batch, share) if recorded is None else recorded(self._run_pass, batch, share)
        except torch.OutOfMemoryError as error:
            if self.blocks_a_pass == 1:
                raise SponError(out_of_memory(f"a training pass of one block, step {self.step + 1}")) from error
            half = self.blocks_a_pass // 2
            print(
                f"no GPU memory for passes of {self.blocks_a_pass} blocks at step {self.step + 1}: going on with {half}"
            )
            self.blocks_a_pass = half
            self.recorded = self.recorded and RecordedPass()  # recordings of larger passes keep their memory
            return None
        return total

    def _run_pass(self, rows: Tensor, share: Tensor) -> Tensor:
        """Run some blocks forward and back, adding their gradients. Returns their share of the step's loss."""
        loss: Tensor = self._loss(rows) * share
        loss.backward()
        return loss.detach()

    def _rows(self, step: int) -> Tensor:
        """Block indices of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self._training.batch_size * self._training.gradient_accumulation_steps
        return epoch_order(epoch, len(self._tokens), self._training.seed)[within * size : (within + 1) * size]

    def _loss(self, rows: Tensor) -> Tensor:
        hidden = self._bench.model.hidden(self._tokens[rows]).flatten(0, 1)
        mean_row, entropy = self._teacher.mean_row[rows].flatten(0, 1), self._teacher.entropy[rows].flatten()
        return linear_kl(hidden, self._bench.model.head, mean_row, entropy, self._training.temperature)

    def save(self, directory: Path) -> None:
        """Write the state: biases, gains, moments and step."""
        tensors = {"step": torch.tensor(self.step)}
        for name, vector in self._named():
            tensors[name] = vector.detach().cpu()
            for moment, value in self._optimizer.state.get(vector, {}).items():
                tensors[f"{moment}.{name}"] = value.detach().cpu()
        save_file(tensors, directory / _STATE)

    def load(self, directory: Path) -> None:
        """Restore a state that ``save`` wrote for the same trial."""
        tensors: Mapping[str, Tensor] = load_file(directory / _STATE)
        self.step = int(tensors["step"])
        self.biases.load({site: tensors[f"bias.{site}"] for site in self.biases.vectors})
        for site, gain in self.biases.gains.items():
            gain.data.copy_(tensors[f"gain.{site}"])
        moments = ("step", "exp_avg", "exp_avg_sq")
        self._optimizer.state.clear()
        if self.step:
            for name, vector in self._named():
                self._optimizer.state[vector] = {
                    moment: tensors[f"{moment}.{name}"].to("cpu" if moment == "step" else vector.device)
                    for moment in moments
                }

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for site, vector in self.biases.vectors.items():
            yield f"bias.{site}", vector
        for site, gain in self.biases.gains.items():
            yield f"gain.{site}", gain
