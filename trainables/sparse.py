"""The sparse model: y = W S(x) + b at the sites of a plan.

One function takes the place of each linear layer's own while the block of ``sparsified`` runs. It gives the bias to the
product, which rounds once: added to an output that is bf16 already, a bias under half a step of it would be lost.
Outside the block the model is dense, bit for bit, because nothing of it was changed.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.schema import TrialPlan
from search_spaces.sites import Site, site_order
from trainables.model import ResidentModel
from trainables.spon import SponBiases
from trainables.teal import SparsityMeter, Thresholds, sparse_input


@contextmanager
def sparsified(
    model: ResidentModel,
    plan: TrialPlan,
    thresholds: Thresholds,
    biases: SponBiases | None = None,
    meter: SparsityMeter | None = None,
) -> Iterator[None]:
    """The model computes y = W S(x) + b at the sites of the plan and of the biases while the block runs.

    Positions that stay dense under the plan's token policy get neither S nor b.

    Args:
        model: dense when the block is entered, and again when it is left.
        plan: sites, levels, rule and token policy.
        thresholds: of every site, for the rule ``threshold``; unused otherwise.
        biases: b of some sites; none is TEAL alone.
        meter: counts realised sparsity if given; it costs a sum per site.
    """
    levels = {Site.parse(text): level for text, level in plan.levels.items()}
    vectors = biases.vectors if biases else {}

    def sparsify(site: Site, tail: Tensor) -> Tensor:
        if site not in levels:
            return tail
        sparse = sparse_input(tail, plan, levels[site], thresholds.get(site))
        if meter:
            meter.count(site, sparse)
        return sparse

    def forward_of(site: Site, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            dense = plan.dense_prefix(x.shape[-2])
            bias = biases.output(site, layer) if biases and site in vectors else None
            sparse = _product(layer, sparsify(site, x[..., dense:, :]), bias)
            return torch.cat((_product(layer, x[..., :dense, :], None), sparse), dim=-2) if dense else sparse

        return forward

    with ExitStack() as stack:
        for site in sorted(levels.keys() | vectors.keys(), key=site_order):
            layer = model.linear(site)
            assert not model.is_changed(site), f"{site} is sparsified already"
            layer.forward = forward_of(site, layer)  # type: ignore[method-assign, assignment]
            stack.callback(delattr, layer, "forward")  # the class's own is left
        yield


def _product(layer: nn.Linear, x: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b, rounded once; a bias of the layer's own is added after, where it cannot swallow a small b."""
    if bias is None:
        return F.linear(x, layer.weight, layer.bias)
    output = F.linear(x, layer.weight, bias)
    return output if layer.bias is None else output + layer.bias
