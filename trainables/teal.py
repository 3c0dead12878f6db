"""TEAL: sparsify the inputs of linear layers by magnitude (arXiv:2408.14690).

There are two rules. ``topk`` keeps the largest |x| of each token, as the seed study does. ``threshold`` zeroes every
|x| below one frozen value per site, a quantile over calibration text, as TEAL defines it.

``trainables.sparse`` puts the rules into a model.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables.activity import track
from trainables.model.compiled import can_compile
from trainables.model.resident import ResidentModel

Thresholds = Mapping[Site, float]
_BINS = 2**15
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtype for each element size; magnitudes sort as their bits do."""


def kept_entries(width: int, sparsity: float) -> int:
    """Entries that ``topk`` keeps of ``width``: rounded down, at least one (the seed study's rule).

    The small term undoes binary rounding: 1 - 0.9 is a little under 0.1.
    """
    return max(1, int(width * (1 - sparsity) + 1e-9))


def keep_largest(x: Tensor, sparsity: float) -> Tensor:
    """S(x) of the rule ``topk``: entries below the k-th largest |x| of their token become zero; ties with it are kept.

    Args:
        x: (..., width).
        sparsity: fraction to zero, in [0, 1).
    """
    magnitude = x.detach().abs()
    smallest_kept = _kth_largest(magnitude, kept_entries(x.shape[-1], sparsity))
    return x * magnitude.ge_(smallest_kept)  # 0 or 1 in x's dtype: a bool mask costs five times as much on a CPU


def _kth_largest(magnitude: Tensor, k: int) -> Tensor:
    """The k-th largest entry of each row of (..., width), shape (..., 1).

    On a CPU numpy's vectorised partition takes a third of the time of ``torch.topk``; both take less than ``kthvalue``.
    """
    if magnitude.device.type != "cpu":
        return kth_largest(magnitude.device.type)(magnitude, torch.full((), k, device=magnitude.device))
    bits = magnitude.view(_BITS[magnitude.itemsize])
    return torch.from_numpy(np.partition(bits.numpy(), -k, axis=-1)[..., -k, None].copy()).view(magnitude.dtype)


def kth_largest(device_type: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (x, k) -> k-th largest magnitude of each row, (..., 1), where k is a tensor."""
    if can_compile(device_type):
        from trainables.model.kernels import kth_largest as by_kernel  # only GPU builds of torch include Triton

        return by_kernel  # type: ignore[no-any-return]
    return _by_sorting


def _by_sorting(x: Tensor, k: Tensor) -> Tensor:
    return x.abs().sort(dim=-1, descending=True).values.index_select(-1, k.view(1) - 1)


def keep_from(x: Tensor, cut: Tensor) -> Tensor:
    """S(x) of either rule with its cut in a tensor, which broadcasts: entries with |x| below ``cut`` become zero."""
    return torch.where(x.detach().abs() >= cut, x, 0.0)


def keep_above(x: Tensor, threshold: float) -> Tensor:
    """S(x) of the rule ``threshold``: entries with |x| below the site's frozen threshold become zero.

    ``hardshrink`` is one pass forward and one back, but zeroes |x| <= its argument, so it gets the next number below.
    """
    exact = torch.tensor(threshold, dtype=x.dtype)
    return F.hardshrink(x, torch.nextafter(exact, torch.zeros_like(exact)).item())


@dataclass
class SparsityMeter:
    """Counts the entries really zeroed at each site. Fractions are over the sparsified positions only."""

    zeros: dict[Site, Tensor] = field(default_factory=dict)
    entries: dict[Site, int] = field(default_factory=dict)

    def count(self, site: Site, sparse: Tensor) -> None:
        """Add one sparsified input of shape (batch, seq, width)."""
        zeros = (sparse.numel() - torch.count_nonzero(sparse)).double()
        self.zeros[site] = self.zeros.get(site, torch.zeros_like(zeros)) + zeros
        self.entries[site] = self.entries.get(site, 0) + sparse.numel()

    def realised(self) -> dict[str, float]:
        """Realised sparsity of each site, a fraction."""
        return {str(site): (zeros / self.entries[site]).item() for site, zeros in self.zeros.items()}


def sparse_input(tail: Tensor, plan: TrialPlan, level: float, threshold: float | None) -> Tensor:
    """S(x) by the plan's rule, (..., positions, in_features): by level for ``topk``, else by threshold."""
    if plan.rule == "topk":
        return keep_largest(tail, level)
    assert threshold is not None
    return keep_above(tail, threshold)


@torch.inference_mode()
def mean_removed(model: ResidentModel, plan: TrialPlan, thresholds: Thresholds, tokens: Tensor) -> dict[Site, Tensor]:
    """Mean of what sparsification removes from the input of each site, E[x - S(x)], in the dense model.

    W E[x - S(x)] is the mean error of the site's output, which a bias can restore directly (the bias correction of
    quantisation, arXiv:1906.04721, section 4.2). The mean is over the positions where that bias acts: those that stay
    dense do not count.

    Returns:
        (in_features,) fp64 on the CPU, by site.
    """
    levels = {Site.parse(text): level for text, level in plan.levels.items()}
    sums: dict[Site, Tensor] = {}

    def add(site: Site, x: Tensor) -> None:
        tail = x[..., plan.dense_prefix(x.shape[-2]) :, :]
        sparse = sparse_input(tail, plan, levels[site], thresholds.get(site))
        removed = (tail - sparse).sum(dim=(0, 1), dtype=torch.float64)
        sums[site] = sums[site] + removed if site in sums else removed

    _show_inputs(model, levels, tokens, add, "start vectors")
    sparse_positions = tokens[:, plan.dense_prefix(tokens.shape[1]) :].numel()
    return {site: total.cpu() / sparse_positions for site, total in sums.items()}


@torch.inference_mode()
def magnitude_histograms(model: ResidentModel, tokens: Tensor, sites: list[Site], dense_prefix: int) -> Tensor:
    """Histograms of |x| at the inputs of the dense model, by ``magnitude_bins``.

    Quantiles are exact for a bf16 model, and within one bfloat16 step (0.8%) in |x| for fp32.

    Args:
        model: in its dense state.
        tokens: (blocks, seq) calibration text.
        sites: whose inputs to measure.
        dense_prefix: positions at the start of each block that the token policy leaves dense; they do not count.

    Returns:
        (sites, 32768) int64 counts, bins in ascending |x|.
    """
    counts = torch.zeros(len(sites), _BINS, dtype=torch.int64, device=model.device)
    rows = dict(zip(sites, counts, strict=True))

    def count(site: Site, x: Tensor) -> None:
        rows[site].add_(torch.bincount(magnitude_bins(x[..., dense_prefix:, :]).flatten(), minlength=_BINS))

    _show_inputs(model, sites, tokens, count, "thresholds")
    return counts


def _show_inputs(
    model: ResidentModel, sites: Iterable[Site], tokens: Tensor, see: Callable[[Site, Tensor], None], what: str
) -> None:
    """Run the dense model over (blocks, seq) tokens and show each site's input, (batch, seq, in_features)."""
    model.check_dense()
    with ExitStack() as stack:
        for site in sites:
            hook = partial(_show, see, site)
            stack.callback(model.linear(site).register_forward_pre_hook(hook).remove)
        for rows in track(model.batches(tokens), what, "batch"):
            model.hidden(tokens[rows].to(model.device))


def _show(see: Callable[[Site, Tensor], None], site: Site, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    see(site, inputs[0])


def magnitude_bins(x: Tensor) -> Tensor:
    """The bin of each |x|, int32 in 0..32767: its upper 16 bits, which are a bfloat16 value."""
    return x.float().abs().view(torch.int32) >> 16


def bin_edges() -> Tensor:
    """The least |x| of each bin, (32768,) ascending; quantile thresholds are among them."""
    return (torch.arange(_BINS, dtype=torch.int32) << 16).view(torch.float32)


def quantile_threshold(histogram: Tensor, sparsity: float) -> float:
    """The bin edge whose share of entries below, by a site's (32768,) counts, is nearest to ``sparsity``."""
    below = torch.cat((histogram.new_zeros(1), histogram.cumsum(0)[:-1])).double() / histogram.sum()
    nearest = int((below - sparsity).abs().argmin())
    return bin_edges()[nearest].item()
