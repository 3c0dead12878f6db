"""Which sites have the largest biases, relative to the scale of their activations?"""

from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.finding import Effect, Finding, Row, number_in
from analysis.resampling import depth_correlation
from analysis.subject import Subject
from search_spaces.sites import Site
from trainables.teal import sparse_input

NAME = "norms"
_FEWEST = 8  # layers; with fewer, wandering looks like a trend
_SCALES = {
    "norm": "norm",
    "norm_over_output": "norm over that of the output",
    "norm_over_error": "norm over that of what sparsity takes",
}


class Scale(NamedTuple):
    """Scale of a site in the dense model, as means over tokens.

    Attributes:
        output: |W x|, without the first token of each block (``analysis.subject.States``).
        error: |W (x - S(x))|, the error of sparsification in the output, without the first token.
        mean_error: W E[x - S(x)], (out_features,), the mean error vector over all tokens that are sparsified, as
            training uses it.
    """

    output: float
    error: float
    mean_error: Tensor


@torch.inference_mode()
def scales_of(subject: Subject) -> dict[Site, Scale]:
    """Measure the scale of every biased and sparsified site on the subject's text. Each site sees dense inputs."""
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
                first = max(0, 1 - dense)  # skip the first token's error, unless the plan leaves that token dense
                sizes = output[:, 1:].double().norm(dim=-1).sum(), error[:, first:].norm(dim=-1).sum()
                found = (*sizes, error.sum(dim=(0, 1)))
                sums[site] = tuple(a + b for a, b in zip(sums[site], found, strict=True)) if site in sums else found

            stack.callback(subject.model.linear(site).register_forward_hook(add).remove)
        text = subject.blocks.tokens
        for rows in subject.model.batches(text):
            subject.model.hidden(text[rows].to(subject.model.device))
    n, n_sparse = text[:, 1:].numel(), text[:, plan.dense_prefix(text.shape[1]) :].numel()
    return {
        site: Scale(float(output) / n, float(error) / n, (total / n_sparse).float().cpu())
        for site, (output, error, total) in sums.items()
    }


def find(subject: Subject) -> Finding:
    """Rank every biased and sparsified site, and test for trends with depth."""
    scales = scales_of(subject)
    rows: list[Row] = []
    trends: dict[str, list[Effect]] = {}
    for part, vectors in subject.parts.items():
        some = [_row(site, vectors[site], scale) for site, scale in scales.items()]
        modules = dict.fromkeys(str(row["module"]) for row in some)
        trends[part] = [trend for module in modules for trend in _trends(part, module, some)]
        rows += [] if part else some
    return Finding(
        analysis=NAME,
        title="Norm ranking",
        question="Do deeper sites need larger corrections, or do deeper sites just carry larger activations?",
        null="Noise that wanders along the layers (AR(1)) as slowly as the observed figures may, each by itself. "
        f"The first token of each block is left out of the scales.{subject.told}",
        effects=tuple(trend for found in trends.values() for trend in found),
        verdict=subject.judged + _verdict(trends[""]),
        rows=tuple(sorted(rows, key=lambda row: -number_in(row, "norm"))),
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
        "norm_over_output": norm / scale.output if scale.output else None,
        "norm_over_error": norm / scale.error if scale.error else None,
    }


def _trends(part: str, module: str, rows: list[Row]) -> list[Effect]:
    """Return the correlation of each scale with depth; none if there are too few sites or one lacks the scale."""
    chosen = sorted((r for r in rows if r["module"] == module), key=lambda row: number_in(row, "layer"))
    if len(chosen) < _FEWEST:
        return []
    effects = []
    for scale, words in _SCALES.items():
        values = np.array([row[scale] for row in chosen], dtype=np.float64)  # None becomes nan
        if np.isnan(values).any() or np.ptp(values) == 0:
            continue
        correlation, null = depth_correlation(values)
        label = f"{part}{module}: {words} with depth, Spearman"
        effects.append(Effect(label=label, value=correlation, null=null, unit="correlation"))
    return effects


def _verdict(effects: list[Effect]) -> str:
    if not effects:
        return f"nothing to rank: no module has {_FEWEST} sparsified sites with biases of different norms"
    ways = {1: "grows", -1: "falls", 0: "has no trend"}
    return "; ".join(f"{e.label.removesuffix(' with depth, Spearman')} {ways[e.side]} with depth" for e in effects)
