"""The subject of an examination: a checkpoint's biases on its model and text, in the modes that analyses compare."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from analysis.prompts import Prompt, by_length
from analysis.resampling import Units, units_of
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.checkpoint import Checkpoint
from trainables.evaluation import token_scores
from trainables.model.resident import ResidentModel
from trainables.sparse import sparsified
from trainables.spon import Form, SponBiases
from trainables.teacher import Teacher
from trainables.text.corpus import Blocks
from trainables.workbench import Workbench

Mode = Literal["dense", "teal", "spon", "random", "weighted"]
MODES: tuple[Mode, ...] = ("dense", "teal", "spon", "random")
"""Dense; TEAL alone; TEAL with the biases; TEAL with random vectors of the same norms in their place, as their null.

``weighted`` is a second null: W times random vectors, scaled to the same norms, with directions like those of outputs.
"""

RESIDUAL_WRITERS = ("o_proj", "down_proj")
"""Modules whose output is added directly to the residual stream."""


@dataclass(frozen=True)
class Trained:
    """The biases of one trial, after training and before it, as a ``Subject`` has them."""

    config: TrialConfig
    biases: Mapping[Site, Tensor]
    start: Mapping[Site, Tensor]

    @property
    def moved(self) -> dict[Site, Tensor]:
        """Difference between the trained biases and their start."""
        return {site: bias - self.start.get(site, torch.zeros_like(bias)) for site, bias in self.biases.items()}


@dataclass(frozen=True)
class Subject:
    """A checkpoint with everything needed to examine it.

    Attributes:
        bench: of the checkpoint's model and corpus.
        blocks, teacher: held-out text, and the dense model's predictions on it.
        prompts: tokenised, by category.
        biases: output bias b of each site, (out_features,) fp32 on the CPU, whatever form was trained.
        random: for each bias a random vector of the same norm, the null of many analyses.
        start: biases before training, by site; a missing site began at zero.

    Questions about the biases themselves base their verdicts on what training added (``parts``). On the whole biases
    they would only rediscover what the start was built from.
    """

    bench: Workbench
    checkpoint: Checkpoint
    blocks: Blocks
    teacher: Teacher
    prompts: tuple[Prompt, ...]
    biases: Mapping[Site, Tensor]
    random: Mapping[Site, Tensor]
    start: Mapping[Site, Tensor]

    @property
    def config(self) -> TrialConfig:
        """The trial."""
        return self.checkpoint.meta.config

    @property
    def sites(self) -> tuple[Site, ...]:
        """Biased sites in canonical order."""
        return tuple(self.biases)

    @property
    def trained(self) -> Trained:
        """The biases without model and text, for a comparison."""
        return Trained(self.config, self.biases, self.start)

    @property
    def parts(self) -> dict[str, Mapping[Site, Tensor]]:
        """Vectors to analyse, by their label prefix: first what training added to the start, the subject of verdicts,
        then the whole biases if they differ.
        """
        return {"": self.trained.moved} | ({"whole bias, ": self.biases} if self.start else {})

    @property
    def judged(self) -> str:
        """Prefix of a verdict that is not about the whole biases."""
        return "of what training added to its start: " if self.start else ""

    @property
    def told(self) -> str:
        """The same remark for the text of the null."""
        return " Rows and verdict are about what training added to its start." if self.start else ""

    @property
    def model(self) -> ResidentModel:
        """The resident model."""
        return self.bench.model

    @cached_property
    def units(self) -> Units:
        """Units of intervals over the text, (blocks,): its documents."""
        return units_of(self.blocks)

    @contextmanager
    def as_biases(self, vectors: Mapping[Site, Tensor] | None) -> Iterator[None]:
        """Make the model sparse with these output biases while the block runs; None is TEAL alone."""
        plan = self.config.plan
        biases = SponBiases.of(self.model, vectors, "output_bias") if vectors else None
        with sparsified(self.model, plan, self.bench.thresholds(plan), biases):
            yield

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """Put the model in one of the modes while the block runs."""
        if mode == "dense":
            yield
            return
        known = {"teal": None, "spon": self.biases, "random": self.random}
        with self.as_biases(self.weighted if mode == "weighted" else known[mode]):
            yield

    @torch.inference_mode()
    def by_prompt(self, mode: Mode, run: Callable[[Tensor], Iterable[Tensor]]) -> list[Tensor]:
        """Run a function of tokens, (prompts, length), on the prompts of each length; return what it gives for each."""
        found: dict[int, Tensor] = {}
        with self.mode(mode):
            for places, tokens in by_length(self.prompts):
                found |= dict(zip(places, run(tokens), strict=True))
        return [found[place] for place in range(len(self.prompts))]

    @cached_property
    def weighted(self) -> Mapping[Site, Tensor]:
        """W times a random vector for each bias, scaled to the norm of the bias."""
        inputs = {site: torch.ones(self.model.linear(site).weight.shape[1]) for site in self.biases}
        outputs = output_biases(self.model, random_like(inputs), "input_vector")
        return {site: vector * (self.biases[site].norm() / vector.norm()) for site, vector in outputs.items()}

    @cached_property
    def tokens(self) -> Mapping[Mode, tuple[Tensor, Tensor]]:
        """NLL (blocks, seq - 1) and KL (blocks, seq) of each token in nats, in each mode."""
        nll, entropy = self.teacher.nll.cpu(), self.teacher.entropy.cpu()
        scores: dict[Mode, tuple[Tensor, Tensor]] = {"dense": (nll, torch.zeros_like(entropy))}
        for mode in MODES[1:]:
            with self.mode(mode):
                scores[mode] = token_scores(self.model, self.blocks, self.teacher)
        return scores


def check_repaired(checkpoint: Checkpoint, what: str) -> None:
    """Refuse a checkpoint that has no biases or sparsifies nothing, because analyses compare three models."""
    config = checkpoint.meta.config
    if not checkpoint.biases or not config.plan.levels:
        lacks = "sparsifies nothing" if checkpoint.biases else "has no biases"
        raise SponError(f"{what} must have a sparse model with biases, but {config.name} {lacks}")


def make_subject(
    bench: Workbench, checkpoint: Checkpoint, blocks: Blocks, teacher: Teacher, prompts: tuple[Prompt, ...]
) -> Subject:
    """Make a subject from a checkpoint and a workbench that it fits (``trainables.checkpoint.check_fits``).

    Raises:
        SponError: if it has no biases to explain or sparsifies nothing to repair; if a bias is not finite; if there
            are fewer than two blocks, too few for an interval; or as ``start_of`` does.
    """
    config = checkpoint.meta.config
    check_repaired(checkpoint, "an analysis")
    if len(blocks.tokens) < 2:
        raise SponError(f"an analysis must have two blocks of text, but got {len(blocks.tokens)} (at n_blocks)")
    biases = output_biases(bench.model, checkpoint.biases, config.training.form)
    if broken := [str(site) for site, bias in biases.items() if not bias.isfinite().all()]:
        raise SponError(f"an analysis must have biases of finite numbers, but {config.name} has none at {broken[0]}")
    start = start_of(bench, config)
    return Subject(bench, checkpoint, blocks, teacher, prompts, biases, random_like(biases), start)


@torch.no_grad()
def output_biases(model: ResidentModel, vectors: Mapping[Site, Tensor], form: Form) -> dict[Site, Tensor]:
    """Return b of each site: the vector itself, or W a for the form ``input_vector``; fp32 on the CPU."""
    if form == "output_bias":
        return dict(vectors)
    return {site: model.linear(site).weight.float().cpu() @ a for site, a in vectors.items()}


def start_of(bench: Workbench, config: TrialConfig) -> dict[Site, Tensor]:
    """Return the output biases that training started from, without sites that started at zero."""
    form, sites = config.training.form, tuple(Site.parse(site) for site in config.sites)
    if config.training.init == "zero":
        return {}
    biases = SponBiases(bench.model, sites, form)
    biases.correct(bench.mean_removed(config.plan), config.training.init_scale)
    return output_biases(bench.model, biases.state(), form)


def random_like(biases: Mapping[Site, Tensor], seed: int = 0) -> dict[Site, Tensor]:
    """Draw for each vector one of the same norm in a random direction."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {site: torch.randn(vector.shape, generator=generator) for site, vector in biases.items()}
    return {site: v * (biases[site].norm() / v.norm()) for site, v in drawn.items()}


class States(NamedTuple):
    """States observed in a forward pass, fp32 on the CPU, at all positions but the first.

    In most models the first token's states are many times as long as any other's (massive activations). They would
    dominate every distance, the first principal component and CKA. In the embedded model after layer 20 their length
    is 24,204 and the median of the others 238. The first component holds 99% of the variance with them, 9% without.

    Attributes:
        outputs: of each watched site, (batch, seq - 1, out_features), with the bias if there is one.
        residual: stream after each layer, (batch, seq - 1, hidden), by layer.
    """

    outputs: dict[Site, Tensor]
    residual: dict[int, Tensor]


@torch.inference_mode()
def states_of(model: ResidentModel, tokens: Tensor, sites: tuple[Site, ...]) -> States:
    """Run the model in its current mode on tokens (batch, seq), and record some sites and all layers."""
    states = States({}, {})

    def keep(place: dict[Any, Tensor], key: Site | int) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            states = output[0] if isinstance(output, tuple) else output
            place[key] = states[:, 1:].float().cpu()

        return hook

    with ExitStack() as stack:
        for site in sites:
            stack.callback(model.linear(site).register_forward_hook(keep(states.outputs, site)).remove)
        for index, layer in enumerate(model.layers):
            stack.callback(layer.register_forward_hook(keep(states.residual, index)).remove)
        model.hidden(tokens.to(model.device))
    return states
