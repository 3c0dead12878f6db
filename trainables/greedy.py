"""TEAL's block-wise greedy levels: how the sparsity of a decoder layer is spread over its sites.

The method is Algorithm 1 of arXiv:2408.14690, section "Block-wise Greedy Optimization". Each decoder layer is optimised
alone, on its inputs in the dense model. All its sites start at level zero, and each raise goes to the site where it
moves the layer's output least. All raises save the same number of weight reads, so small sites rise by large steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn

from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables.activity import tell
from trainables.model.resident import ResidentModel
from trainables.sparse import sparsified
from trainables.teal import magnitude_histograms, quantile_threshold
from trainables.workbench import Workbench

Rule = Literal["topk", "threshold"]
_MET = 1e-9  # in the mean level: a smaller gap to the target is binary rounding


_STEP = 0.02


def raises(sparsity: float, step: float = _STEP) -> int:
    """Number of raises that take a layer to a sparsity; each tries every site of the layer once."""
    return math.ceil(sparsity / step - _MET)


@torch.inference_mode()
def greedy_levels(
    bench: Workbench,
    sites: Sequence[Site],
    sparsities: Sequence[float],
    rule: Rule,
    n_blocks: int,
    step: float = _STEP,
    bounds: tuple[float, float] = (0.0, 0.95),
) -> list[dict[str, float]]:
    """For each target sparsity, levels of each decoder layer's sites with that mean, weighted by weights.

    Sites that are not given stay dense. All positions are sparsified. Each raise costs a pass through the decoder layer
    for every site that can still rise: about ``sites of a layer x highest sparsity / step`` passes through the decoder
    in all. Each target continues from the one before it.

    Args:
        bench: model, in its dense state, and calibration text.
        sites: to sparsify, in any order.
        sparsities: targets, ascending: the mean level of each layer that has a site, weighted by in_features x
            out_features. With all modules of all layers planned, an equal mean is equal work.
        rule: how a level zeroes entries. The thresholds of ``threshold`` are quantiles over the same text.
        n_blocks: number of calibration blocks, from the start. They go through the model in one batch.
        step: what a raise adds to the layer's mean level. A site with the share f of the layer's planned weights rises
            by step / f, or less where it reaches its highest level or the layer its target.
        bounds: lowest and highest level of a site.

    Returns:
        For each target, the level of every site, by name and in canonical order, rounded to 6 digits, which moves the
        mean of a layer by less than 1e-6.

    Raises:
        SponError: if a site is not in the model or named twice, or another argument is out of range.
        RuntimeError: if the model is not dense.
    """
    model, tokens = bench.model, bench.blocks("calibration").tokens
    outside = [sparsity for sparsity in sparsities if not bounds[0] <= sparsity <= bounds[1]]
    if outside or sorted(sparsities) != list(sparsities):
        rule_of_them = f"must ascend within {bounds[0]:g}..{bounds[1]:g}"
        raise SponError(f"sparsities of greedy levels {rule_of_them}, but got {list(sparsities)} (at sparsity)")
    if not 0 < step <= 1:
        raise SponError(f"a raise must have 0 < step <= 1, but got {step} (at step)")
    if not 1 <= n_blocks <= len(tokens):
        raise SponError(f"n_blocks must be in 1..{len(tokens)}, but got {n_blocks} (at the calibration split)")
    planned = model.shape.check(sites, "sites")
    model.check_dense()
    tokens = tokens[:n_blocks]
    histograms: dict[Site, Tensor] = {}
    if rule == "threshold":
        histograms = dict(zip(planned, magnitude_histograms(model, tokens, list(planned), 0), strict=True))
    levels: list[dict[Site, float]] = [{} for _ in sparsities]
    layers = [tuple(group) for _, group in groupby(planned, key=lambda site: site.layer)]
    with ExitStack() as stack:
        for done, group in enumerate(layers, start=1):

            def optimise(
                layer: nn.Module,
                args: Any,
                kwargs: Any,
                dense: Tensor,
                group: tuple[Site, ...] = group,
                done: int = done,
            ) -> None:
                error = partial(_output_error, model, histograms, layer, args, kwargs, dense)
                climbed = _climb(model.shape.shares(group), sparsities, step, bounds, error)
                for known, found in zip(levels, climbed, strict=True):
                    known.update(found)
                tell("greedy levels", done, len(layers), "layer")

            decoder_layer = model.network.get_submodule(model.shape.sites[group[0]].path.rsplit(".", 2)[0])
            stack.callback(decoder_layer.register_forward_hook(optimise, with_kwargs=True).remove)
        model.hidden(tokens.to(model.device))
    return [{str(site): round(found[site], 6) for site in planned} for found in levels]


def _climb(
    shares: Mapping[Site, float],
    sparsities: Sequence[float],
    step: float,
    bounds: tuple[float, float],
    error: Callable[[Mapping[Site, float]], float],
) -> Iterator[dict[Site, float]]:
    """Raise one site at a time, the one that leaves the least error; the first wins a tie.

    Yields the levels at each sparsity.
    """
    low, high = bounds
    levels = dict.fromkeys(shares, low)
    for sparsity in sparsities:
        while (missing := sparsity - sum(share * levels[site] for site, share in shares.items())) > _MET:
            raised = [
                {**levels, site: min(levels[site] + min(step, missing) / share, high)}
                for site, share in shares.items()
                if levels[site] < high
            ]
            levels = min(raised, key=error)
        yield levels


def _output_error(
    model: ResidentModel,
    histograms: Mapping[Site, Tensor],
    layer: nn.Module,
    args: Any,
    kwargs: Any,
    dense: Tensor,
    levels: Mapping[Site, float],
) -> float:
    """L2 distance of a decoder layer's output under some levels from ``dense``, (batch, seq, hidden).

    Without histograms, the rule is ``topk``.
    """
    on = {site: level for site, level in levels.items() if level > 0}
    thresholds = {site: quantile_threshold(histograms[site], level) for site, level in on.items() if histograms}
    plan = TrialPlan(
        levels={str(site): level for site, level in on.items()},
        rule="threshold" if histograms else "topk",
        tokens="all",
        calibration_blocks=len(dense),
    )
    with sparsified(model, plan, thresholds):
        output = layer.forward(*args, **kwargs)  # not layer(...), which would run the hook that this is called from
    distance: float = torch.linalg.vector_norm(output.float() - dense.float(), dtype=torch.float64).item()
    return distance
