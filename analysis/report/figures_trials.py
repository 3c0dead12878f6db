"""Figures of what biases are worth, and of how those of several trials compare."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.finding import Effect, Finding
from analysis.report.style import (
    BIASES,
    NULL,
    RANDOM,
    Numbers,
    at,
    bar,
    blank,
    columns_for,
    dashed,
    dot,
    effects_panel,
    key,
    module_key,
    numbers,
    panels,
    place_sites,
    site_points,
    table,
    words,
)

_PANEL = 2.7  # inches
_ROW = 0.26  # inches of a pair of trials
_NAMES = 170  # characters of a line


def worth(finding: Finding) -> Figure:
    """What each site's bias is worth, and all of them scaled, taken apart or drawn at random."""
    rows = table(finding)
    variant = np.array(words(rows, "variant"))
    sites = place_sites(rows[variant == "site"])
    shown = {
        "kl_taken_off": ("What this bias takes off the KL", "nats, mean over the others on and off"),
        "mean_error_cosine": ("Direction", "cosine with the mean error\nof the site"),
    }
    names, columns = [*shown, "scaled", "parts"], columns_for(sites)
    layout = [names[i : i + columns] for i in range(0, len(names), columns)]
    figure = blank(finding, _PANEL * len(layout) + 0.5)
    axes = panels(figure, layout)
    for name, (title, label) in shown.items():
        site_points(axes[name], sites, name)
        at(axes[name], 0)
        axes[name].set(title=title, ylabel=label)
    _scaled(axes["scaled"], rows[np.char.startswith(variant, "times ")])
    _parts(axes["parts"], finding)
    key(figure, [*module_key(sites), dot(BIASES, "all biases"), dot(RANDOM, "random vectors (null)"), dashed("zero")])
    return figure


def _scaled(axis: Axes, scaled: pd.DataFrame) -> None:
    """KL against the factor of all biases: nothing at zero, which is TEAL, and the biases as they are at one."""
    factors = [float(name.removeprefix("times ")) for name in words(scaled, "variant")]
    found = {0.0: (0.0, 0.0, 0.0)}
    if factors:
        columns = [numbers(scaled, f"kl_minus_teal{end}") for end in ("", "_low", "_high")]
        found |= dict(zip(factors, zip(*columns, strict=True), strict=True))
    x = sorted(found)
    value, low, high = np.array([found[factor] for factor in x]).T
    axis.plot(x, value, "o-", color=BIASES, markersize=4)
    axis.fill_between(x, low, high, color=BIASES, alpha=0.18, linewidth=0)
    at(axis, 0)
    axis.set(title="All biases, scaled", xlabel="factor", ylabel="KL minus TEAL's, nats")


def _parts(axis: Axes, finding: Finding) -> None:
    """KL of all biases, of their parts along and across the mean error, and of random vectors."""
    chosen = [effect for effect in finding.effects if effect.unit == "nats"]
    labels = [effect.label.removeprefix("KL, ").removesuffix(" minus TEAL").rstrip(",") for effect in chosen]
    effects_panel(axis, chosen, [RANDOM if "random" in label else BIASES for label in labels], labels)
    at(axis, 0, vertical=True)
    axis.set(title="All biases, taken apart", xlabel="KL minus TEAL's, nats")


def cross(finding: Finding) -> Figure:
    """Cosines of every two trials: each shared site's, their mean, and what biases of other layers give."""
    rows = table(finding)
    of = list(zip(words(rows, "one"), words(rows, "other"), words(rows, "relation"), strict=True))
    trials = dict.fromkeys([name for one, other, _ in of for name in (one, other)])
    numbered = {trial: str(place) for place, trial in enumerate(trials, 1)}
    pairs = sorted(dict.fromkeys(of), key=lambda pair: pair[2])
    names = textwrap.wrap(";  ".join(f"{number} is {trial}" for trial, number in numbered.items()), _NAMES)
    heights = [1.0 + _ROW * len(pairs), 0.1 + 0.18 * len(names)]
    figure = blank(finding, sum(heights) + 0.5)
    axes = panels(figure, [["cosine", "moved_cosine"], ["names", "names"]], heights)
    for column, what in (("cosine", "mean cosine"), ("moved_cosine", "mean cosine of what training added")):
        found = {effect.label: effect for effect in finding.effects}
        means = [found.get(f"{one} and {other} ({how}): {what}") for one, other, how in pairs]
        sites = [numbers(rows, column)[[trial == pair for trial in of]] for pair in pairs]
        _pairs(axes[column], means, sites)
    heights_of = list(range(len(pairs))[::-1])
    labels = [f"{numbered[one]} and {numbered[other]}: {how}" for one, other, how in pairs]
    axes["cosine"].set_yticks(heights_of, labels, fontsize=8)
    axes["moved_cosine"].set_yticks(heights_of, [""] * len(pairs))
    axes["cosine"].set(title="Whole biases", xlabel="cosine")
    axes["moved_cosine"].set(title="What training added to the start", xlabel="cosine")
    axes["names"].text(0, 1, "\n".join(names), va="top", fontsize=8, transform=axes["names"].transAxes)
    axes["names"].set_axis_off()
    mean = dot(BIASES, "mean over shared sites", line="-")
    key(figure, [mean, dot(BIASES, "a site", "|"), bar("mean, layers shifted"), dashed("zero")])
    return figure


def _pairs(axis: Axes, effects: Sequence[Effect | None], sites: Sequence[Numbers]) -> None:
    """One pair of trials below the other: the null's range, a tick a site, and the mean with its interval."""
    for y, effect, cosines in zip(range(len(sites))[::-1], effects, sites, strict=True):
        axis.plot(cosines, np.full(len(cosines), float(y)), "|", color=BIASES, alpha=0.35, markersize=9)
        if effect is None:
            continue
        if effect.null is not None:
            axis.plot(effect.null, [y, y], color=NULL, linewidth=9, solid_capstyle="butt", zorder=1)
        if effect.interval is not None:
            axis.plot(effect.interval, [y, y], color=BIASES, linewidth=2)
        axis.plot([effect.value], [y], "o", color=BIASES, markersize=5)
    axis.set_ylim(-0.6, len(sites) - 0.4)
    axis.grid(visible=False, axis="y")
    at(axis, 0, vertical=True)
