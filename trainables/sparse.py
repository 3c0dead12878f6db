"""The sparse model: y = W S(x) + b at the sites of a plan.

Inside a ``sparsified`` block a linear layer is a ``SparseLinear``. It passes the bias to the product, which rounds
once: added to a bf16 output instead, a bias under half a rounding step would be lost. Outside the block the model is
dense, bit for bit, because no weight changes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.sites import Site, site_order
from search_spaces.trial import TrialPlan
from trainables.model.resident import ResidentModel
from trainables.spon import SiteBias, SponBiases
from trainables.teal import SparsityMeter, Thresholds, keep_from, kept_entries, kth_largest, sparse_input


class SparseLinear(nn.Linear):
    """A changed linear layer; ``change`` holds its S and b."""

    change: "Change"

    def forward(self, x: Tensor) -> Tensor:
        """W S(x) + b of (..., positions, in_features); positions that stay dense get neither S nor b."""
        change = self.change
        dense = change.dense_prefix(x.shape[-2])
        bias = None if change.bias is None else change.bias(self.weight)
        sparse = _product(self, change.sparsify(x[..., dense:, :]), bias)
        return torch.cat((_product(self, x[..., :dense, :], None), sparse), dim=-2) if dense else sparse


class Change(nn.Module):
    """S and b of one site; a meter counts what S zeroes."""

    def __init__(
        self,
        plan: TrialPlan,
        site: Site,
        threshold: float | None,
        bias: SiteBias | None,
        meter: SparsityMeter | None = None,
    ) -> None:
        super().__init__()
        self.bias = bias
        self._plan, self._site, self._threshold, self._meter = plan, site, threshold, meter

    def dense_prefix(self, length: int) -> int:
        """Number of positions at the start of ``length`` that stay dense."""
        return self._plan.dense_prefix(length)

    def sparsify(self, tail: Tensor) -> Tensor:
        """S(x) of the positions after the dense prefix."""
        level = self._plan.levels.get(str(self._site))
        if level is None:
            return tail
        sparse = sparse_input(tail, self._plan, level, self._threshold)
        if self._meter:
            self._meter.count(self._site, sparse)
        return sparse


class _AlikeChange(Change):
    """A change with the same operations at all sites; only its tensors differ.

    ``torch.compile`` then compiles one layer for all of them and for all trials of a process.
    """

    def __init__(
        self, plan: TrialPlan, site: Site, layer: nn.Linear, threshold: float | None, bias: SiteBias | None
    ) -> None:
        super().__init__(plan, site, threshold, bias)
        self._kth_largest = kth_largest(layer.weight.device.type) if plan.rule == "topk" else None
        cut: float
        if plan.rule == "topk":
            cut, dtype = kept_entries(layer.in_features, plan.levels.get(str(site), 0.0)), torch.int64
        else:
            cut, dtype = threshold or 0.0, layer.weight.dtype
        self.register_buffer("cut", torch.full((), cut, dtype=dtype, device=layer.weight.device))
        self.cut: Tensor

    def sparsify(self, tail: Tensor) -> Tensor:
        find = self._kth_largest
        return keep_from(tail, self.cut if find is None else find(tail.detach(), self.cut))


@contextmanager
def sparsified(
    model: ResidentModel,
    plan: TrialPlan,
    thresholds: Thresholds,
    biases: SponBiases | None = None,
    meter: SparsityMeter | None = None,
) -> Iterator[None]:
    """Make the model compute y = W S(x) + b at the sites of the plan and of the biases while the block runs.

    Args:
        model: dense before the block, and again after it.
        plan: sites, levels, rule and token policy.
        thresholds: of every site, for the rule ``threshold``; unused otherwise.
        biases: b of some sites; None for TEAL alone.
        meter: counts realised sparsity if given; it costs a sum per site.
    """
    vectors = biases.sites if biases else {}
    sites = {Site.parse(text) for text in plan.levels} | vectors.keys()
    changes = {site: Change(plan, site, thresholds.get(site), vectors.get(site), meter) for site in sites}
    with changed(model, changes):
        yield


def alike_changes(
    model: ResidentModel, plan: TrialPlan, thresholds: Thresholds, biases: SponBiases
) -> dict[Site, Change]:
    """Changes for ``changed`` that do what ``sparsified`` does, with the same operations at all linear layers.

    Layers without S or b get an S that zeroes nothing and a b of zero. A CUDA graph reads these tensors: keep them as
    long as the graph.

    Args: see ``sparsified``.
    """
    changes: dict[Site, Change] = {}
    for site in model.shape.sites:
        bias = biases.sites.get(site) or biases.idle(site)
        changes[site] = _AlikeChange(plan, site, model.linear(site), thresholds.get(site), bias)
    return changes


@contextmanager
def changed(model: ResidentModel, changes: dict[Site, Change]) -> Iterator[None]:
    """Change the linear layers of some sites while the block runs."""
    with ExitStack() as stack:
        for site in sorted(changes, key=site_order):
            layer = model.linear(site)
            assert not model.is_changed(site), f"{site} is sparsified already"
            stack.callback(_restore, layer, type(layer))
            layer.__class__ = SparseLinear
            layer.change = changes[site]
        yield


def _restore(layer: nn.Linear, own: type[nn.Linear]) -> None:
    del layer.change
    layer.__class__ = own


def _product(layer: nn.Linear, x: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b, rounded once. The layer's own bias is added afterwards, so that it cannot swallow a small b."""
    if bias is None:
        return F.linear(x, layer.weight, layer.bias)
    output = F.linear(x, layer.weight, bias)
    return output if layer.bias is None else output + layer.bias
