"""Figures of the questions about the biases themselves."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.finding import Effect, Finding
from analysis.report.style import (
    NULL,
    RANDOM,
    at,
    bar,
    blank,
    columns_for,
    dashed,
    dot,
    effects_panel,
    key,
    log_axis,
    module_key,
    numbers,
    panels,
    place_sites,
    site_points,
    table,
    words,
)

_LEVEL = 0.05  # filled markers
_PANEL = 2.7  # inches
_TESTS = {"excess_kurtosis": {"p_heavier": 0.025, "p_lighter": 0.025}, "positive_fraction": {"p_sign": 0.05}}
_WIDE = 10.0  # largest magnitude of a kurtosis on a linear axis


def pca(finding: Finding) -> Figure:
    """Largest cosine and share inside the components' span, a row of panels for each kind of activations."""
    rows = place_sites(table(finding))
    of = list(zip(words(rows, "where"), words(rows, "centred"), strict=True))
    kinds = list(dict.fromkeys(of))
    figure = blank(finding, _PANEL * len(kinds) + _PANEL)
    layout = [[f"cosine {i}", f"share {i}"] for i in range(len(kinds))]
    axes = panels(figure, [*layout, ["counts", "ratios"]])
    for i, (place, centred) in enumerate(kinds):
        some = rows[np.array([pair == (place, centred) for pair in of])]
        title = f"{place}, {'centred' if centred == 'True' else 'not centred'}"
        _cosines(axes[f"cosine {i}"], some)
        axes[f"cosine {i}"].set(title=title, ylabel="largest |cosine|")
        site_points(axes[f"share {i}"], some, "share_over_chance")
        at(axes[f"share {i}"], 1)
        axes[f"share {i}"].set(title=title, ylabel="share inside the span,\ntimes chance")
        log_axis(axes[f"share {i}"], numbers(some, "share_over_chance"))
    _split_effects(axes["counts"], axes["ratios"], finding, "sites")
    axes["counts"].set(title="Sites beyond chance")
    axes["ratios"].set(title="Share inside the span, mean over sites", xlabel="times chance")
    at(axes["ratios"], 1, vertical=True)
    null = [bar("chance: mean to 95th percentile; range of the null"), dashed("chance, on average")]
    key(figure, [*module_key(rows), dot("black", f"hollow: p of {_LEVEL} or more", fill="white"), *null])
    return figure


def _cosines(axis: Axes, rows: pd.DataFrame) -> None:
    low, high = numbers(rows, "chance_mean"), numbers(rows, "chance_95")
    axis.vlines(numbers(rows, "x"), low, high, color=NULL, linewidth=4, zorder=1)
    site_points(axis, rows, "largest_cosine", numbers(rows, "p") < _LEVEL)
    axis.set_ylim(bottom=0)


def _split_effects(counts: Axes, others: Axes, finding: Finding, unit: str) -> None:
    """Effects that are counts in one panel, the others in a second, each named by what comes before its colon."""
    for axis, chosen in (
        (counts, [effect for effect in finding.effects if effect.unit == unit]),
        (others, [effect for effect in finding.effects if effect.unit != unit]),
    ):
        effects_panel(axis, chosen, "black", [_short(effect) for effect in chosen])


def _short(effect: Effect) -> str:
    of = effect.label.rpartition(", of ")[2]
    head = effect.label.partition(":")[0]
    return f"{head}, of {of}" if of.isdigit() else head


def moments(finding: Finding) -> Figure:
    """Every moment by layer, with the value that a Gaussian around zero has, and how many differ from it."""
    rows = place_sites(table(finding))
    shown = {
        "excess_kurtosis": ("Tails", "excess kurtosis", 0.0),
        "positive_fraction": ("Signs", "fraction above zero", 0.5),
        "mean": ("Mean", "mean of the entries", 0.0),
        "sd": ("Spread", "standard deviation", None),
        "norm": ("Size", "Euclidean norm", None),
        "max_abs": ("Largest entry", "largest |entry|", None),
    }
    columns = columns_for(rows)
    names = list(shown)
    layout = [names[i : i + columns] for i in range(0, len(names), columns)]
    figure = blank(finding, _PANEL * len(layout) + 2)
    axes = panels(figure, [*layout, ["counts"] * columns], [*[_PANEL] * len(layout), 1.6])
    for name, (title, label, null) in shown.items():
        site_points(axes[name], rows, name, _surely(rows, _TESTS.get(name, {})))
        axes[name].set(title=title, ylabel=label)
        if null is not None:
            at(axes[name], null)
    if (np.abs(numbers(rows, "excess_kurtosis")) > _WIDE).any():
        axes["excess_kurtosis"].set_yscale("symlog", linthresh=1)
        axes["excess_kurtosis"].yaxis.set_major_formatter("{x:g}")
    effects_panel(axes["counts"], finding.effects, "black")
    axes["counts"].set(title="Biases that clearly differ from a Gaussian around zero")
    hollow = dot("black", "hollow: as a Gaussian", fill="white")
    key(figure, [*module_key(rows), hollow, dashed("Gaussian around zero"), bar("none by chance")])
    return figure


def _surely(rows: pd.DataFrame, levels: Mapping[str, float]) -> NDArray[np.bool_] | None:
    """Where a p value is below its level; nothing is said of findings from before there were such tests."""
    tested = [numbers(rows, name) < level for name, level in levels.items() if name in rows]
    return np.any(tested, axis=0) if tested else None


def norms(finding: Finding) -> Figure:
    """Norms by layer, as they are and over two scales of their sites, and how each goes with depth."""
    rows = place_sites(table(finding))
    shown = {
        "norm": ("Norm of the bias", "Euclidean norm"),
        "norm_over_output": ("Over the norm of the site's output", "|b| / mean |W x|"),
        "norm_over_error": ("Over the norm of what sparsity takes", "|b| / mean |W (x - S(x))|"),
    }
    tested = len(finding.effects)
    figure = blank(finding, 2 * _PANEL + 0.38 * tested + 1.2)
    names = list(shown)
    axes = panels(
        figure, [[names[0], names[0]], names[1:], ["effects", "effects"]], [_PANEL, _PANEL, 0.8 + 0.38 * tested]
    )
    for name, (title, label) in shown.items():
        site_points(axes[name], rows, name)
        axes[name].set(title=title, ylabel=label)
        axes[name].set_ylim(bottom=0)
    labels = [effect.label.removesuffix(" with depth, Spearman") for effect in finding.effects]
    effects_panel(axes["effects"], finding.effects, "black", labels)
    at(axes["effects"], 0, vertical=True)
    axes["effects"].set(title="Rank correlation with depth", xlim=(-1.05, 1.05), xlabel="Spearman correlation")
    key(figure, [*module_key(rows), bar("no trend")])
    return figure


def logits(finding: Finding) -> Figure:
    """Size and peak of each bias's direct effect on the logits beside those of random vectors of its norm."""
    rows = place_sites(table(finding))
    figure = blank(finding, 2 * _PANEL + 2)
    axes = panels(figure, [["spread"], ["peak"], ["counts"]], [_PANEL, _PANEL, 1.6])
    for name, title, label in (
        ("spread", "Size of the effect", "standard deviation over\nthe vocabulary, nats"),
        ("peak", "Peak of the effect", "largest change over\nthat standard deviation"),
    ):
        axes[name].plot(numbers(rows, "x"), numbers(rows, f"random_{name}"), "_", color=RANDOM, markersize=8, zorder=1)
        site_points(axes[name], rows, name, numbers(rows, f"p_{name}") < _LEVEL)
        axes[name].set(title=title, ylabel=label)
    log_axis(axes["spread"], numbers(rows, "spread"))
    effects_panel(axes["counts"], finding.effects, "black")
    axes["counts"].set(title="Biases beyond random vectors")
    random = dot(RANDOM, "random vectors, median (null)", "_")
    hollow = dot("black", f"hollow: p of {_LEVEL} or more", fill="white")
    key(figure, [*module_key(rows), hollow, random, bar("none by chance")])
    return figure
