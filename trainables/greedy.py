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
"""What a raise adds to the mean level of a layer."""


def raises(sparsity: float) -> int:
    """Number of raises that take a layer to a sparsity; each tries every site of the layer once."""
    return math.ceil(sparsity / _STEP - _MET)


@torch.inference_mode()
def greedy_levels(
    bench: Workbench,
    sites: Sequence[Site],
    sparsities: Sequence[float],
    rule: Rule,
    n_blocks: int,
    bounds: tuple[float, float],
) -> list[dict[str, float]]:
    """For each target sparsity, levels of each decoder layer's sites with that mean, weighted by weights.

    Sites that are not given stay dense. All positions are sparsified. Each raise costs a pass through the decoder layer
    for every site that can still rise: about ``sites of a layer x raises`` passes through the decoder in all. Each
    target continues from the one before it.

    Args:
        bench: model, in its dense state, and calibration text.
        sites: to sparsify, in canonical order.
        sparsities: targets, ascending and within the bounds: the mean level of each layer that has a site, weighted by
            in_features x out_features. With all modules of all layers planned, an equal mean is equal work.
        rule: how a level zeroes entries. The thresholds of ``threshold`` are quantiles over the same text.
        n_blocks: number of calibration blocks, from the start. They go through the model in one batch.
        bounds: lowest and highest level of a site.

    Returns:
        For each target, the level of every site, by name and in canonical order, rounded to 6 digits, which moves the
        mean of a layer by less than 1e-6.

    Raises:
        RuntimeError: if the model is not dense.
    """
    model, tokens = bench.model, bench.blocks("calibration").tokens[:n_blocks]
    model.check_dense()
    histograms: dict[Site, Tensor] = {}
    if rule == "threshold":
        histograms = dict(zip(sites, magnitude_histograms(model, tokens, list(sites), 0), strict=True))
    levels: list[dict[Site, float]] = [{} for _ in sparsities]
    layers = [tuple(group) for _, group in groupby(sites, key=lambda site: site.layer)]

    def optimise(done: int, layer: nn.Module, args: Any, kwargs: Any, dense: Tensor) -> None:
        error = partial(_output_error, model, histograms, layer, args, kwargs, dense)
        climbed = _climb(model.shape.shares(layers[done]), sparsities, bounds, error)
        for known, found in zip(levels, climbed, strict=True):
            known.update(found)
        tell("greedy levels", done + 1, len(layers), "layer")

    with ExitStack() as stack:
        for number, group in enumerate(layers):
            hook = partial(optimise, number)
            decoder_layer = model.layers[group[0].layer]
            stack.callback(decoder_layer.register_forward_hook(hook, with_kwargs=True).remove)
        model.hidden(tokens.to(model.device))
    return [{str(site): round(found[site], 6) for site in sites} for found in levels]


def _climb(
    shares: Mapping[Site, float],
    sparsities: Sequence[float],
    bounds: tuple[float, float],
    error: Callable[[Mapping[Site, float]], float],
) -> Iterator[dict[Site, float]]:
    """Raise one site at a time, the one that leaves the least error; the first wins a tie.

    A site with the share f of the layer's planned weights rises by ``_STEP`` / f, or less where it reaches its highest
    level or the layer its target.

    Yields the levels at each sparsity.
    """
    low, high = bounds
    levels = dict.fromkeys(shares, low)
    for sparsity in sparsities:
        while (missing := sparsity - sum(share * levels[site] for site, share in shares.items())) > _MET:
            raised = [
                {**levels, site: min(levels[site] + min(_STEP, missing) / share, high)}
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
