"""Fisher curves: KL cost of each level at each site, all from one dense pass forward and back.

Let r(s) = x - S(x) be what level s removes from a site's input x in the dense model, g the gradient there of the sum
over positions of -log p(y), with every label y drawn from the dense model itself. To second order, level s at that
site alone costs

    c(s) = 1/2 mean over positions of (g . r(s))^2        nats a position

because the second moment of such gradients is the Fisher information, the Hessian of KL(dense || sparse) where the two
agree. The sum of the curves prices a whole plan, assuming that errors of different sites are unrelated.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables.activity import track
from trainables.loss import exponentials, logits_of, operand, product, token_chunks
from trainables.model.resident import ResidentModel
from trainables.statistics import Array
from trainables.teal import bin_edges, kept_entries, magnitude_bins

LEVELS: tuple[float, ...] = tuple(k / 40 for k in range(39))
"""Levels at which a curve is measured: 0, .025, ... .95."""
_TOKENS = {"cpu": 1024, "cuda": 2048}
"""Tokens of one pass, which keeps the inputs of all sites for the backward pass."""


@dataclass(frozen=True)
class Curves:
    """KL costs of levels.

    Attributes:
        sites: in canonical order.
        cost: (draws, sites, levels) fp64, nats a position at ``LEVELS``, one estimate for each draw of labels.
        positions: number of positions that each draw averages over.
    """

    sites: tuple[Site, ...]
    cost: Array
    positions: int

    @property
    def mean(self) -> Array:
        """Mean cost over the draws: (sites, levels)."""
        mean: Array = self.cost.mean(axis=0)
        return mean


def merged(parts: list[Curves]) -> Curves:
    """Merge the curves of parts of a text, all with the same sites and draws."""
    positions = sum(part.positions for part in parts)
    cost = sum(part.cost * (part.positions / positions) for part in parts)
    return Curves(parts[0].sites, cost, positions)  # type: ignore[arg-type]  # of arrays, at least one


def fisher_curves(
    model: ResidentModel,
    plan: TrialPlan,
    thresholds: Mapping[Site, Tensor],
    tokens: Tensor,
    numbers: Sequence[int],
    draws: int = 1,
) -> Curves:
    """Measure the curves of all sites of a plan on some blocks.

    Labels depend only on the draw and the number of a block, so blocks can be measured in any parts.

    Args:
        model: in its dense state.
        plan: sites, rule and token policy; levels are ignored. Positions that stay dense cost nothing, but count.
        thresholds: of each site, ascending, one for each of ``LEVELS``, by ``quantile_threshold``; for the rule
            ``threshold``.
        tokens: (blocks, seq) calibration text.
        numbers: of the blocks in the whole text.
        draws: number of label draws. Each costs a backward pass. As many new blocks tell more, but also cost a forward
            pass.

    Raises:
        SponError: if a site passes no gradient, as with quantised weights.
        RuntimeError: if the model is not dense.
    """
    model.check_dense()
    for site in map(Site.parse, plan.levels):
        dtype = model.linear(site).weight.dtype
        if not dtype.is_floating_point:
            raise SponError(f"Fisher curves need floating-point weights, but {site} has {dtype} (at plan.levels)")
    watch = _Watch(model, plan, thresholds, draws)
    head, values = operand(model.head), model.head.dtype
    size = max(1, _TOKENS[model.device.type] // tokens.shape[1])
    with watch:
        for start in track(range(0, len(tokens), size), "Fisher curves", "batch"):
            batch = tokens[start : start + size].to(model.device)
            hidden = model.hidden(batch)
            drawn = [_chance(number, batch.shape[1], draws) for number in numbers[start : start + size]]
            chance = torch.stack(drawn, dim=1).to(model.device)
            for draw, gradient in enumerate(_label_gradients(hidden.detach(), head, values, chance)):
                watch.draw = draw
                hidden.backward(gradient, retain_graph=draw + 1 < draws)
    return Curves(watch.sites, (watch.total / (2 * tokens.numel())).cpu().numpy(), tokens.numel())


def _chance(block: int, length: int, draws: int) -> Tensor:
    """Uniform numbers that draw a block's labels, (draws, length) in [0, 1); more draws do not change the first."""
    return torch.rand(draws, length, generator=torch.Generator().manual_seed(block))


@torch.no_grad()
def _label_gradients(hidden: Tensor, head: Tensor, values: torch.dtype, chance: Tensor) -> Tensor:
    """d(-log p(y)) / dh for labels y drawn from p itself, which is m - U_y with m = sum_v p_v U_v.

    Args:
        hidden: (blocks, seq, hidden).
        head: U of shape (vocabulary, hidden), as products take it (``operand``).
        values: dtype of the model.
        chance: (draws, blocks, seq) uniform numbers that draw the labels.

    Returns:
        (draws, blocks, seq, hidden) in the dtype of the states.
    """
    flat, numbers = hidden.float().flatten(0, 1), chance.flatten(1)
    gradients = flat.new_empty(len(numbers), *flat.shape)
    for part in token_chunks(flat):
        weights, total, _ = exponentials(logits_of(flat[part], head, values))
        mean_row = product(weights, head).div_(total[:, None])
        below = weights.cumsum(dim=-1)
        wanted = numbers[:, part].T * below[:, -1:]
        labels = torch.searchsorted(below, wanted.contiguous(), right=True).clamp_(max=len(head) - 1)
        gradients[:, part] = mean_row - head[labels.T]
    return gradients.view(len(numbers), *hidden.shape).to(hidden.dtype)


class _Watch:
    """Adds up (g . r(s))^2 of all sites during backward passes.

    Attributes:
        sites: watched sites.
        draw: label draw of the backward pass.
        total: (draws, sites, levels) fp64.
    """

    def __init__(self, model: ResidentModel, plan: TrialPlan, thresholds: Mapping[Site, Tensor], draws: int) -> None:
        self._model, self._plan = model, plan
        tables = {site: torch.bucketize(bin_edges(), of, right=True) for site, of in thresholds.items()}
        self._tables = {site: table.to(model.device) for site, table in tables.items()}
        self.sites = tuple(Site.parse(site) for site in plan.levels)
        self.draw = 0
        self.total = torch.zeros(draws, len(self.sites), len(LEVELS), dtype=torch.float64, device=model.device)
        self._stack = ExitStack()
        self._binned: tuple[Tensor, Tensor] | None = None

    def __enter__(self) -> None:
        embedding: nn.Module = self._model.network.get_input_embeddings()
        self._stack.callback(embedding.register_forward_hook(_with_gradient).remove)
        for number, site in enumerate(self.sites):
            hook = self._hook(site, number)
            self._stack.callback(self._model.linear(site).register_forward_pre_hook(hook).remove)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._binned = None

    def _hook(self, site: Site, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, *rest = inputs
            own = x.view_as(x)  # q, k and v share x, as gate and up do: each gets a gradient of its own
            own.register_hook(lambda gradient: self._add(site, number, x.detach(), gradient))
            return own, *rest

        return see

    @torch.no_grad()
    def _add(self, site: Site, number: int, x: Tensor, gradient: Tensor) -> None:
        bins = self._bins(site, x)
        tail = slice(self._plan.dense_prefix(x.shape[-2]), None)
        product = (gradient[..., tail, :].float() * x[..., tail, :].float()).flatten(0, -2)
        by_bin = product.new_zeros(len(product), len(LEVELS) + 1).scatter_add_(1, bins, product)
        removed = by_bin[:, :-1].cumsum(dim=1)
        self.total[self.draw, number] += removed.double().square_().sum(dim=0)

    def _bins(self, site: Site, x: Tensor) -> Tensor:
        """Index of the first level that zeroes each entry of (batch, seq, width): (positions, width).

        It is kept for sites that share their input.
        """
        if self._binned is None or self._binned[0].data_ptr() != x.data_ptr():
            tail = x[..., self._plan.dense_prefix(x.shape[-2]) :, :].flatten(0, -2)
            by_rank = self._plan.rule == "topk"
            self._binned = x, _ranked(tail.abs()) if by_rank else self._tables[site][magnitude_bins(tail)]
        return self._binned[1]


def _ranked(magnitude: Tensor) -> Tensor:
    """Index of the first level at which ``topk`` zeroes each entry of (positions, width)."""
    width, ascending = magnitude.shape[-1], magnitude.sort(dim=-1).values
    smallest_kept = ascending[:, [width - kept_entries(width, level) for level in LEVELS]]
    return torch.searchsorted(smallest_kept.contiguous(), magnitude, right=True)


def _with_gradient(embedding: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()
