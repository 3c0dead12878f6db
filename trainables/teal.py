"""TEAL: sparsify the inputs of linear layers by magnitude (arXiv:2408.14690).

Two rules. ``topk`` keeps the largest |x| of each token, as the seed study does. ``threshold`` zeroes every |x| below
one frozen value a site, as TEAL defines it; the value is a quantile over calibration text.

The input is sparsified on its way into the layer, so that there is one multiplication; outside ``sparsified`` the model
is dense, bit for bit, because nothing of it was changed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from search_spaces.schema import TrialPlan
from search_spaces.sites import Site
from trainables.model import ResidentModel

Thresholds = Mapping[Site, float]
_BINS = 2**15
_BATCH = 8


def kept_entries(width: int, sparsity: float) -> int:
    """Entries that ``topk`` keeps of ``width``: rounded down, at least one (the seed study's rule).

    The small term undoes binary rounding: 1 - 0.9 is a little under 0.1.
    """
    return max(1, int(width * (1 - sparsity) + 1e-9))


def topk_mask(x: Tensor, sparsity: float) -> Tensor:
    """True where ``topk`` zeroes: below the k-th largest |x| of the token; ties with it are kept.

    Args:
        x: (..., width).
        sparsity: fraction to zero, in [0, 1).
    """
    magnitude = x.detach().abs()
    kept = kept_entries(x.shape[-1], sparsity)
    smallest_kept = magnitude.topk(kept, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    return magnitude < smallest_kept


def threshold_mask(x: Tensor, threshold: float) -> Tensor:
    """True where ``threshold`` zeroes: |x| below the site's frozen threshold."""
    return x.detach().abs() < threshold


@dataclass
class SparsityMeter:
    """Counts what was really zeroed, per site. Fractions are over the sparsified positions only."""

    zeros: dict[Site, Tensor] = field(default_factory=dict)
    entries: dict[Site, int] = field(default_factory=dict)

    def count(self, site: Site, mask: Tensor) -> None:
        """Add one masked input of shape (batch, seq, width)."""
        self.zeros[site] = self.zeros.get(site, torch.zeros((), device=mask.device)) + mask.sum(dtype=torch.float64)
        self.entries[site] = self.entries.get(site, 0) + mask.numel()

    def realised(self) -> dict[str, float]:
        """Realised sparsity of each site, a fraction."""
        return {str(site): (zeros / self.entries[site]).item() for site, zeros in self.zeros.items()}


@contextmanager
def sparsified(
    model: ResidentModel, plan: TrialPlan, thresholds: Thresholds, meter: SparsityMeter | None = None
) -> Iterator[None]:
    """The model computes y = W S(x) at the sites of the plan while the block runs.

    Args:
        model: dense when the block is entered, and again when it is left.
        plan: sites, levels, rule and token policy.
        thresholds: of every site, for the rule ``threshold``; unused otherwise.
        meter: counts realised sparsity if given; it costs a sum per site.
    """

    def hook(site: Site, level: float) -> Callable[..., tuple[Tensor, ...]]:
        def sparsify(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = inputs[0]
            dense = plan.dense_prefix(x.shape[-2])
            tail = x[..., dense:, :]
            mask = topk_mask(tail, level) if plan.rule == "topk" else threshold_mask(tail, thresholds[site])
            if meter:
                meter.count(site, mask)
            sparse = tail.masked_fill(mask, 0)
            return (torch.cat((x[..., :dense, :], sparse), dim=-2) if dense else sparse, *inputs[1:])

        return sparsify

    with ExitStack() as stack:
        for text, level in plan.levels.items():
            site = Site.parse(text)
            stack.callback(model.linear(site).register_forward_pre_hook(hook(site, level)).remove)
        yield


@torch.inference_mode()
def magnitude_histograms(model: ResidentModel, tokens: Tensor, sites: list[Site], dense_prefix: int) -> Tensor:
    """Histograms of |x| at the inputs of the dense model.

    A bin holds the magnitudes that share their upper 16 bits, which is to say one bfloat16 value: for a bf16 model the
    quantiles are exact, for fp32 they are within one bfloat16 step (0.8%) in |x|.

    Args:
        model: in its dense state.
        tokens: (blocks, seq) calibration text.
        sites: whose inputs are measured.
        dense_prefix: positions at the start of each block that the token policy leaves dense, and which do not count.

    Returns:
        (sites, 32768) int64 counts, bins in ascending |x|.
    """
    model.check_dense()
    counts = torch.zeros(len(sites), _BINS, dtype=torch.int64, device=model.device)
    with ExitStack() as stack:
        for row, site in zip(counts, sites, strict=True):

            def count(layer: nn.Module, inputs: tuple[Tensor, ...], row: Tensor = row) -> None:
                magnitude = inputs[0][..., dense_prefix:, :].float().abs().flatten()
                row += torch.bincount(magnitude.view(torch.int32) >> 16, minlength=_BINS)

            stack.callback(model.linear(site).register_forward_pre_hook(count).remove)
        for start in range(0, len(tokens), _BATCH):
            model.hidden(tokens[start : start + _BATCH].to(model.device))
    return counts


def quantile_threshold(histogram: Tensor, sparsity: float) -> float:
    """The threshold whose share of entries below it is nearest to ``sparsity``.

    Args:
        histogram: (32768,) counts of one site.
        sparsity: fraction to zero.
    """
    below = torch.cat((histogram.new_zeros(1), histogram.cumsum(0)[:-1])).double() / histogram.sum()
    nearest = int((below - sparsity).abs().argmin())
    return (torch.tensor(nearest, dtype=torch.int32) << 16).view(torch.float32).item()
