"""Which sites have the largest biases, once the scale of what flows there is taken out?"""

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.finding import Effect, Finding, Row
from analysis.resampling import null_range
from analysis.subject import Subject
from search_spaces.sites import Site
from trainables.statistics import Array, spearman
from trainables.teal import sparse_input

NAME = "norms"
_FEWEST = 5  # sites: of fewer, even a perfect order is within the middle 95% of all orders
_SCALES = {
    "norm": "norm",
    "norm_over_output": "norm over that of the output",
    "norm_over_error": "norm over that of what sparsity takes",
}


@dataclass(frozen=True)
class Scale:
    """The scale of a site in the dense model, means over tokens.

    Attributes:
        output: |W x|.
        error: |W (x - S(x))|, what sparsification takes from the output.
        mean_error: W E[x - S(x)], (out_features,), the mean of that as a vector.
    """

    output: float
    error: float
    mean_error: Tensor


@torch.inference_mode()
def scales_of(subject: Subject) -> dict[Site, Scale]:
    """The scale of every biased site that is sparsified, over the subject's text; each site sees dense inputs."""
    plan, thresholds = subject.config.plan, subject.bench.thresholds(subject.config.plan)
    sums: dict[Site, tuple[Tensor, Tensor, Tensor]] = {}
    sites = [site for site in subject.sites if str(site) in plan.levels]
    with ExitStack() as stack:
        for site in sites:

            def add(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor, site: Site = site) -> None:
                dense = plan.dense_prefix(inputs[0].shape[-2])
                tail = inputs[0][..., dense:, :]
                sparse = sparse_input(tail, plan, plan.levels[str(site)], thresholds.get(site))
                error = F.linear(tail - sparse, layer.weight).double()
                found = output.double().norm(dim=-1).sum(), error.norm(dim=-1).sum(), error.sum(dim=(0, 1))
                sums[site] = tuple(a + b for a, b in zip(sums[site], found, strict=True)) if site in sums else found

            stack.callback(subject.model.linear(site).register_forward_hook(add).remove)
        text = subject.blocks.tokens
        for rows in subject.model.batches(text):
            subject.model.hidden(text[rows].to(subject.model.device))
    n = text.numel()
    return {
        site: Scale(float(output) / n, float(error) / n, (total / n).float().cpu())
        for site, (output, error, total) in sums.items()
    }


def depth_correlation(values: Array, draws: int = 2000, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of figures in order of depth with their depth, and its middle 95% if depth is shuffled.

    Args:
        values: (sites,), not all equal.
        draws: shuffles.
        seed: of the shuffles.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # a second to import

    ranks = rankdata(values)
    depth = np.arange(len(values), dtype=np.float64)
    rng = np.random.default_rng(seed)
    ranks, depth = ranks - ranks.mean(), depth - depth.mean()
    size = np.sqrt((ranks**2).sum() * (depth**2).sum())
    shuffled = rng.permuted(np.tile(ranks, (draws, 1)), axis=1) @ depth / size
    return float(ranks @ depth / size), null_range(shuffled)


def find(subject: Subject) -> Finding:
    """Ask it of every biased site that is sparsified."""
    rows = [_row(site, subject.biases[site], scale) for site, scale in scales_of(subject).items()]
    effects = [effect for module in _modules(rows) for effect in _effects(module, rows)]
    return Finding(
        analysis=NAME,
        title="Norm ranking",
        question="Do deeper sites need larger corrections, or do deeper sites just carry larger activations?",
        null="Depth shuffled among the sites of a module, each figure by itself. Intervals are bootstraps over sites.",
        effects=tuple(effects),
        verdict=_verdict(effects),
        rows=tuple(sorted(rows, key=lambda row: -float(row["norm"]))),
    )


def _row(site: Site, bias: Tensor, scale: Scale) -> Row:
    norm = float(bias.norm())
    return {
        "site": str(site),
        "module": site.module,
        "layer": site.layer,
        "norm": norm,
        "output_norm": scale.output,
        "error_norm": scale.error,
        "mean_error_norm": float(scale.mean_error.norm()),
        "norm_over_output": norm / scale.output,
        "norm_over_error": norm / scale.error if scale.error else None,
    }


def _modules(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["module"]) for row in rows))


def _effects(module: str, rows: list[Row]) -> list[Effect]:
    """Correlation with depth of each scale; none where there are too few sites."""
    chosen = sorted((r for r in rows if r["module"] == module), key=lambda row: int(row["layer"] or 0))
    if len(chosen) < _FEWEST:
        return []
    effects = []
    for scale, words in _SCALES.items():
        values = np.array([row[scale] for row in chosen], dtype=np.float64)  # None becomes nan
        if np.isnan(values).any() or np.ptp(values) == 0:
            continue
        _, null = depth_correlation(values)
        interval = spearman([float(r["layer"] or 0) for r in chosen], list(values))
        effects.append(Effect.of(f"{module}: {words} with depth, Spearman", interval, "correlation", null))
    return effects


def _verdict(effects: list[Effect]) -> str:
    if not effects:
        return f"nothing to rank: no module has {_FEWEST} sparsified sites with biases of different norms"
    words = []
    for effect in effects:
        assert effect.null is not None
        way = "grows" if effect.value > effect.null[1] else "falls" if effect.value < effect.null[0] else "has no trend"
        words.append(f"{effect.label.removesuffix(' with depth, Spearman')} {way} with depth")
    return "; ".join(words)
