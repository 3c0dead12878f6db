"""Do the Fisher curves predict what levels cost, part by part and together, and do biases gain more at costly sites?"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells, number_in
from analysis.questions.worth import BLOCKS, Switches, chosen_blocks, design, folded_effects, kl_of_runs
from analysis.resampling import Units, holm, mean, p_of_zero, range_of_one_more, ratio
from analysis.subject import Subject
from search_spaces.levels import predicted_kl
from search_spaces.sites import Site
from trainables.curves import LEVELS
from trainables.evaluation import scores_from_tokens
from trainables.importance import by_gain
from trainables.sparse import sparsified
from trainables.statistics import Array, Interval, rank_correlation, widened

NAME = "levels"
_CURVE_BLOCKS, _CURVE_PARTS = 32, 8
"""Blocks of the calibration text for the curves, and parts of it, whose spread is the error of the prediction."""
_MOST_PARTS = 15
"""Most parts that 16 runs can measure."""
_FEWEST_LAYERS = 8
"""Least layers of a module for a null of shifted layers."""
_LEVEL = 0.05
_RATIO = "KL of the whole plan over the predicted one"
_GAINS = "rank correlation, biases' gain with their sites' predicted cost"
_GAINS_LEVEL = "rank correlation, biases' gain with their sites' level"
_INTERVALS = [f"{name}{end}" for name in ("predicted_nats", "kl_nats") for end in ("", "_low", "_high")]
_ROW: Row = dict.fromkeys(("what", "place", "n_sites", "level", *_INTERVALS, "p_differs", "gain_nats"))

Parts = Mapping[str, Sequence[Site]]
Costs = Mapping[Site, Array]
"""Predicted cost of each site in nats per position, from each part of the text, (parts,)."""


def parts_of(sites: Sequence[Site], num_layers: int) -> Parts:
    """Return the parts that are switched on and off as one, modules in bands of layers such as ``down_proj 10-14``."""
    bands = min(num_layers, _MOST_PARTS // len({site.module for site in sites}))
    parts: dict[tuple[str, int], list[Site]] = {}
    for site in sites:
        parts.setdefault((site.module, site.layer * bands // num_layers), []).append(site)
    named = {}
    for (module, _), some in parts.items():
        first, last = min(site.layer for site in some), max(site.layer for site in some)
        named[f"{module} {first}-{last}" if last > first else f"{module} {first}"] = some
    return named


def ranked_alike(one: Mapping[Site, float], other: Mapping[Site, float]) -> tuple[float, tuple[float, float]] | None:
    """Return Spearman's correlation over sites, and its 95% range if the layer did not matter.

    The null shifts one side cyclically along the layers of each module, by every number of layers. It keeps that
    neighbours are alike, and that modules differ. None if a module has few layers, or one side is constant.
    """
    modules = [[site for site in one if site.module == module] for module in dict.fromkeys(site.module for site in one)]
    fewest = min(map(len, modules), default=0)
    if fewest < _FEWEST_LAYERS or len(set(one.values())) == 1 or len(set(other.values())) == 1:
        return None
    fixed = np.array([one[site] for sites in modules for site in sites])
    shifted = [
        np.concatenate([np.roll([other[site] for site in sites], shift) for sites in modules])
        for shift in range(fewest)
    ]
    rho = rank_correlation(np.tile(fixed, (fewest, 1)), np.array(shifted))
    return float(rho[0]), range_of_one_more(rho[1:])


def find(subject: Subject) -> Finding:
    """Predict the cost of the plan from its curves, and switch its parts on and off to measure their cost."""
    costs = _predicted(subject)
    parts = parts_of(tuple(costs), subject.model.shape.num_layers)
    chosen = chosen_blocks(subject)
    rows = _part_rows(parts, _measured(subject, parts, chosen), costs, subject.units[chosen.numpy()])
    gains = _gains(subject)
    effects = _effects(subject, costs, rows, gains)
    return Finding(
        analysis=NAME,
        title="What the levels cost",
        question="Does the sum of the Fisher curves predict what the plan and each of its parts cost in KL, and are "
        "biases worth more where levels cost more?",
        null="The prediction of the curves, from the calibration text. Intervals are jackknives over documents, and "
        f"over {_CURVE_PARTS} parts of that text for the prediction. A part's figure is a mean over "
        f"{len(design(len(parts)))} runs in which the other parts alternate between sparse and dense, on {len(chosen)} "
        "blocks. P values hold for measurement and prediction, and for all parts together (Holm). Gains are of first "
        "order, on the text that trained the biases. For rank correlations, layers shifted within their module.",
        effects=effects,
        verdict=_verdict(effects),
        rows=(*rows, *_site_rows(subject, costs, gains)),
    )


def _predicted(subject: Subject) -> Costs:
    """Return the predicted cost of each site of the plan, from each part of the calibration text."""
    plan, bench = subject.config.plan, subject.bench
    there = len(bench.blocks("calibration").tokens)
    numbers = np.unique(np.linspace(0, there - 1, _CURVE_BLOCKS).astype(int)).tolist()
    parts = [numbers[part::_CURVE_PARTS] for part in range(min(_CURVE_PARTS, len(numbers)))]
    curves = [bench.fisher_curves(plan, part).mean for part in parts]
    return {
        site: np.array(
            [predicted_kl(cost[place : place + 1], LEVELS, np.array([plan.levels[str(site)]])) for cost in curves]
        )
        for place, site in enumerate(map(Site.parse, plan.levels))
    }


def _measured(subject: Subject, parts: Parts, chosen: Tensor) -> Array:
    """Measure the KL that each part costs on chosen blocks, nats per position, mean over runs, (parts, blocks)."""
    plan, thresholds = subject.config.plan, subject.bench.thresholds(subject.config.plan)

    def switched(run: Switches) -> AbstractContextManager[None]:
        sparse = [str(site) for sites, is_on in zip(parts.values(), run, strict=True) if is_on for site in sites]
        some = plan.model_copy(update={"levels": {site: plan.levels[site] for site in sparse}})
        return sparsified(subject.model, some, thresholds)

    return -folded_effects(len(parts), chosen, kl_of_runs(subject, switched))


def _sum(costs: Costs, sites: Iterable[Site]) -> Interval:
    """Return the predicted cost of some sites together, with the error of its prediction."""
    return mean(np.sum([costs[site] for site in sites], axis=0))


def _beyond(measured: Interval, predicted: Interval) -> Interval:
    """Return how much is measured beyond the prediction; both have errors."""
    beyond = Interval(*(end - predicted.value for end in measured))
    return widened(beyond, predicted.high - predicted.value)


def _part_rows(parts: Parts, measured: Array, costs: Costs, units: Units) -> list[Row]:
    prices = [_sum(costs, sites) for sites in parts.values()]
    found = [mean(kl, units) for kl in measured]
    apart = [_beyond(kl, price) for kl, price in zip(found, prices, strict=True)]
    p_values = holm([p_of_zero(interval, len(np.unique(units))) for interval in apart])
    rows: list[Row] = []
    for (name, sites), kl, price, p in zip(parts.items(), found, prices, p_values, strict=True):
        row = _ROW | {"what": "part", "place": name, "n_sites": len(sites), "p_differs": p}
        rows.append(row | cells("predicted_nats", price) | cells("kl_nats", kl))
    return rows


def _gains(subject: Subject) -> Mapping[Site, float]:
    """Return the first-order gain of each bias at a site of the plan, in nats; none on less than two blocks."""
    n = min(BLOCKS, len(subject.bench.blocks("calibration").tokens))
    if n < 2:
        return {}
    importance = by_gain(subject.bench, subject.config.plan, subject.biases, n)
    gains = {site: gain for (site,), gain in zip(importance.players, importance.value, strict=True)}
    return {site: gain for site, gain in gains.items() if str(site) in subject.config.plan.levels}


def _site_rows(subject: Subject, costs: Costs, gains: Mapping[Site, float]) -> list[Row]:
    rows: list[Row] = []
    for site in costs:
        row = _ROW | {"what": "site", "place": str(site), "n_sites": 1, "level": subject.config.plan.levels[str(site)]}
        rows.append(row | cells("predicted_nats", _sum(costs, [site])) | {"gain_nats": gains.get(site)})
    return rows


def _effects(subject: Subject, costs: Costs, parts: Sequence[Row], gains: Mapping[Site, float]) -> tuple[Effect, ...]:
    scores, predicted = scores_from_tokens(*subject.tokens["teal"], subject.blocks), _sum(costs, costs)
    whole = ratio(scores.block_kl.numpy(), scores.block_positions.numpy(), subject.units)
    found = [
        Effect.of("KL of the whole plan, TEAL", whole, "nats"),
        Effect.of("KL of the whole plan, predicted", predicted, "nats"),
    ]
    if predicted.value > 0:
        beyond = _beyond(whole, predicted)
        over = Interval(*((predicted.value + end) / predicted.value for end in beyond))
        found.append(Effect.of(_RATIO, over, "ratio", (1.0, 1.0)))
    differing = [row for row in parts if number_in(row, "p_differs") < _LEVEL]
    for way, sign in (("more", 1), ("less", -1)):
        surely = [sign * (number_in(row, "kl_nats") - number_in(row, "predicted_nats")) > 0 for row in differing]
        found.append(Effect.count(f"parts that clearly cost {way} than predicted, of {len(parts)}", surely))
    sides = {
        _GAINS: {site: float(costs[site].mean()) for site in gains},
        _GAINS_LEVEL: {site: subject.config.plan.levels[str(site)] for site in gains},
    }
    for label, side in sides.items():
        if alike := ranked_alike(gains, side):
            found.append(Effect(label=label, value=alike[0], null=alike[1], unit="correlation"))
    return tuple(found)


_IS = {1: "clearly above", -1: "clearly below", 0: "not clearly above or below"}
_GAIN = {1: "more where sites cost more", -1: "less where sites cost more", 0: "not clearly more where sites cost more"}


def _verdict(effects: tuple[Effect, ...]) -> str:
    found = {effect.label: effect for effect in effects}
    measured, predicted = effects[:2]
    low, high = (found[_RATIO].interval if _RATIO in found else None) or (-np.inf, np.inf)
    way = int(low > 1) - int(high < 1)
    more, less = (effect for effect in effects if effect.label.startswith("parts that clearly"))
    gains = f"; within their module, biases gain {_GAIN[found[_GAINS].side]}" if _GAINS in found else ""
    return (
        f"TEAL's KL of {measured.value:.3g} nats is {_IS[way]} the {predicted.value:.3g} that the curves predict; of "
        f"{more.label.split()[-1]} parts {more.value:.0f} clearly cost more and {less.value:.0f} less{gains}"
    )
