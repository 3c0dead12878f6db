"""Do the Fisher curves predict what levels cost, part by part and together, and do biases gain more at costly sites?"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.finding import Effect, Finding, Row, cells
from analysis.questions.worth import BLOCKS, design, main_effects
from analysis.resampling import DRAWS, Units, holm, mean, null_range, p_of_zero, ratio
from analysis.subject import Subject
from search_spaces.levels import predicted_kl
from search_spaces.sites import Site
from trainables.curves import LEVELS
from trainables.evaluation import score, scores_from_tokens
from trainables.importance import by_gain
from trainables.proxy import taken
from trainables.sparse import sparsified
from trainables.statistics import Array, Interval, rank_correlation

NAME = "levels"
_CURVE_BLOCKS = 16
"""Blocks of the calibration text for the curves."""
_MOST_PARTS = 15
"""Most parts that 16 runs can measure."""
_FEWEST_RANKED = 5
_LEVEL = 0.05
_GAINS = "rank correlation, biases' gain with their sites' predicted cost"
_FIGURES = ("level", "predicted_nats", "kl_nats", "kl_nats_low", "kl_nats_high", "p_differs", "gain_nats")
_ROW: Row = dict.fromkeys(("what", "place", "n_sites", *_FIGURES))

Parts = Mapping[str, Sequence[Site]]


def parts_of(sites: Sequence[Site], num_layers: int) -> Parts:
    """Return the parts that are switched on and off as one: a module in a band of layers, such as ``down_proj 10-14``.

    Args:
        sites: of the plan.
        num_layers: of the model.
    """
    bands = min(num_layers, _MOST_PARTS // len({site.module for site in sites}))
    parts: dict[tuple[str, int], list[Site]] = {}
    for site in sites:
        parts.setdefault((site.module, site.layer * bands // num_layers), []).append(site)
    return {f"{module} {_layers(some)}": some for (module, _), some in parts.items()}


def _layers(sites: Sequence[Site]) -> str:
    first, last = min(site.layer for site in sites), max(site.layer for site in sites)
    return f"{first}-{last}" if last > first else str(first)


def ranked_alike(one: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float]] | None:
    """Return Spearman's correlation and its 95% range under shuffled pairs; None if too few or one side is constant."""
    if len(one) < _FEWEST_RANKED or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    fixed = np.tile(np.array(one, dtype=np.float64), (1 + DRAWS, 1))
    turned = np.tile(np.array(other, dtype=np.float64), (1 + DRAWS, 1))
    turned[1:] = np.random.default_rng(0).permuted(turned[1:], axis=1)
    rho = rank_correlation(fixed, turned)
    return float(rho[0]), null_range(rho[1:])


def find(subject: Subject) -> Finding:
    """Predict the cost of the plan from its curves, and switch its parts on and off to measure their cost."""
    costs = _predicted(subject)
    parts = parts_of(tuple(costs), subject.model.shape.num_layers)
    n = min(BLOCKS, len(subject.blocks.tokens))
    chosen = torch.arange(n) * len(subject.blocks.tokens) // n
    measured = _measured(subject, parts, chosen)
    rows = _part_rows(parts, measured, costs, subject.units[chosen.numpy()])
    sites = _site_rows(subject, costs)
    effects = _effects(subject, sum(costs.values()), rows, sites)
    return Finding(
        analysis=NAME,
        title="What the levels cost",
        question="Does the sum of the Fisher curves predict what the plan and each of its parts cost in KL, and are "
        "biases worth more where levels are high?",
        null="The prediction of the curves, from other text. A part's figure is a mean over "
        f"{len(design(len(parts)))} runs in which the other parts alternate between sparse and dense, on {n} blocks. "
        "Intervals are jackknives over documents. P values are adjusted for all parts together (Holm). For rank "
        "correlations, shuffled pairs.",
        effects=effects,
        verdict=_verdict(effects),
        rows=(*rows, *sites),
    )


def _predicted(subject: Subject) -> dict[Site, float]:
    """Return the predicted cost of each site of the plan from its curve, nats per position."""
    plan, bench = subject.config.plan, subject.bench
    n = min(_CURVE_BLOCKS, len(bench.blocks("calibration").tokens))
    curves = bench.fisher_curves(plan, range(n))
    levels = np.array(list(plan.levels.values()))[:, None]
    each = zip(curves.mean[:, None], levels, strict=True)
    return dict(zip(curves.sites, (predicted_kl(curve, LEVELS, level) for curve, level in each), strict=True))


def _measured(subject: Subject, parts: Parts, chosen: torch.Tensor) -> Array:
    """Measure the KL that each part costs on chosen blocks, nats per position, mean over runs, (parts, blocks)."""
    blocks, teacher = taken(subject.blocks, subject.teacher, chosen)
    plan, thresholds = subject.config.plan, subject.bench.thresholds(subject.config.plan)
    on, kl = design(len(parts)), []
    for run in on:
        sparse = _switched_on(parts, run)
        levels = {str(site): plan.levels[str(site)] for site in sparse}
        with sparsified(subject.model, plan.model_copy(update={"levels": levels}), thresholds):
            scores = score(subject.model, blocks, teacher)
        kl.append((scores.block_kl / scores.block_positions).numpy())
    return -main_effects(on, np.array(kl))


def _switched_on(parts: Parts, run: NDArray[np.bool_]) -> list[Site]:
    return [site for sites, is_on in zip(parts.values(), run, strict=True) if is_on for site in sites]


def _part_rows(parts: Parts, measured: Array, costs: Mapping[Site, float], units: Units) -> list[Row]:
    predicted = [sum(costs[site] for site in sites) for sites in parts.values()]
    p_values = holm(
        [
            p_of_zero(mean(kl - price, units), len(np.unique(units)))
            for kl, price in zip(measured, predicted, strict=True)
        ]
    )
    rows: list[Row] = []
    for place, (name, sites) in enumerate(parts.items()):
        row = _ROW | {"what": "part", "place": name, "n_sites": len(sites), "predicted_nats": predicted[place]}
        rows.append(row | cells("kl_nats", mean(measured[place], units)) | {"p_differs": p_values[place]})
    return rows


def _site_rows(subject: Subject, costs: Mapping[Site, float]) -> list[Row]:
    """Make rows with the level and predicted cost of each site, and the first-order gain of its bias if it has one."""
    importance = by_gain(subject.bench, subject.config.plan, subject.biases, BLOCKS)
    gains = {site: gain for (site,), gain in zip(importance.players, importance.value, strict=True)}
    levels = subject.config.plan.levels
    rows: list[Row] = []
    for site, cost in costs.items():
        row = _ROW | {"what": "site", "place": str(site), "n_sites": 1, "predicted_nats": cost}
        rows.append(row | {"level": levels[str(site)], "gain_nats": gains.get(site)})
    return rows


def _effects(subject: Subject, predicted: float, parts: list[Row], sites: list[Row]) -> tuple[Effect, ...]:
    scores = scores_from_tokens(*subject.tokens["teal"], subject.blocks)
    whole = ratio(scores.block_kl.numpy(), scores.block_positions.numpy(), subject.units)
    found = [Effect.of("KL of the whole plan, TEAL", whole, "nats", (predicted, predicted))]
    if predicted > 0:
        times = Interval(whole.value / predicted, whole.low / predicted, whole.high / predicted)
        found.append(Effect.of("KL of the whole plan over the predicted one", times, "ratio", (1.0, 1.0)))
    differing = [row for row in parts if _figure(row, "p_differs") < _LEVEL]
    for way, sign in (("more", 1), ("less", -1)):
        surely = [sign * (_figure(row, "kl_nats") - _figure(row, "predicted_nats")) > 0 for row in differing]
        found.append(Effect.count(f"parts that clearly cost {way} than predicted, of {len(parts)}", surely))
    biased = [row for row in sites if row["gain_nats"] is not None]
    ranked = (
        ("rank correlation, parts' measured cost with the predicted one", parts, "kl_nats", "predicted_nats"),
        (_GAINS, biased, "gain_nats", "predicted_nats"),
        ("rank correlation, biases' gain with their sites' level", biased, "gain_nats", "level"),
    )
    for label, rows, one, other in ranked:
        alike = ranked_alike([_figure(row, one) for row in rows], [_figure(row, other) for row in rows])
        if alike:
            found.append(Effect(label=label, value=alike[0], null=alike[1], unit="correlation"))
    return tuple(found)


def _figure(row: Row, name: str) -> float:
    return float(row[name])  # type: ignore[arg-type]


_COSTS = {1: "costs more than", -1: "costs less than", 0: "costs about"}
_GAIN = {
    1: "more at sites that cost more",
    -1: "less at sites that cost more",
    0: "not clearly more at sites that cost more",
}


def _verdict(effects: tuple[Effect, ...]) -> str:
    whole = effects[0]
    assert whole.null is not None
    predicted, (low, high) = whole.null[0], whole.interval or (-np.inf, np.inf)
    way = int(low > predicted) - int(high < predicted)
    more, less = (effect for effect in effects if effect.label.startswith("parts that clearly"))
    gains = [f"; biases gain {_GAIN[effect.side]}" for effect in effects if effect.label == _GAINS]
    return (
        f"TEAL {_COSTS[way]} the {predicted:.3g} nats that the curves predict: {whole.value:.3g}; of "
        f"{more.label.split()[-1]} parts {more.value:.0f} clearly cost more and {less.value:.0f} less"
        f"{''.join(gains)}"
    )
