"""Figures of the questions that read text: what the model puts out, and its hidden states."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.finding import Finding
from analysis.report.style import (
    BIASES,
    RANDOM,
    SHADES,
    TEAL,
    at,
    bar,
    blank,
    dashed,
    dot,
    effects_panel,
    key,
    layer_axis,
    line,
    module_key,
    numbers,
    panels,
    place_sites,
    points,
    site_points,
    table,
    words,
)

_MODELS = {"TEAL": TEAL, "biases": BIASES, "random vectors": RANDOM}
_AFTER = "after layer "
_TAKEN_BACK, _RELATIVE = "taken back,\nfraction of TEAL's shift", "relative shift\n|h - h dense| / |h dense|"
_PANEL = 2.8  # inches
_WORST = -1.0
"""Recovery below which a panel is cut off: a random vector may move a state any number of times further away."""


def perplexity(finding: Finding) -> Figure:
    """Damage of each model in its two parts, what the biases take back of each, and the shares."""
    rows = table(finding)
    figure = blank(finding, 3.6)
    damage, back, shares = figure.subplots(1, 3, width_ratios=(3, 2, 2))
    parts = {"nll": "damage to\nthe NLL", "kl": "of which\nKL", "misfit": "of which\nmisfit"}
    models = words(rows, "model")
    for place, model in enumerate(models):
        row = rows.iloc[[place]]
        for x, part in enumerate(parts):
            where = np.array([x + 0.18 * (place - (len(models) - 1) / 2)])
            points(damage, where, row, part, _MODELS.get(model, RANDOM), size=6)
    damage.set_xticks(range(len(parts)), list(parts.values()))
    damage.set(ylabel="nats a token, against dense", title="Damage")
    at(damage, 0)
    taken = [effect for effect in finding.effects if effect.label.startswith("biases take back")]
    effects_panel(back, taken, labels=[effect.label.rpartition(", ")[2] for effect in taken])
    back.set(title="The biases take back", xlabel="nats a token")
    at(back, 0, vertical=True)
    effects_panel(shares, [effect for effect in finding.effects if effect.unit == "fraction"])
    shares.set(title="Shares of the damage recovered", xlabel="fraction of TEAL's damage")
    at(shares, 0, vertical=True)
    dots = [dot(colour, name) for name, colour in _MODELS.items()]
    key(figure, [*dots, dashed("zero: the misfit under the null")])
    return figure


def shift(finding: Finding) -> Figure:
    """Recovery at site outputs, along the residual stream, by third of the block, and the shift itself."""
    rows = table(finding)
    after = np.array([place.startswith(_AFTER) for place in words(rows, "place")])
    outputs, stream = place_sites(rows[~after], "place"), _stream(rows[after])
    layers = numbers(stream, "layer") if len(stream) else np.empty(0)
    last = 0.8 + 0.34 * len(finding.effects)
    figure = blank(finding, 2 * _PANEL + last + 0.5)
    axes = panels(figure, [["sites", "sites"], ["stream", "distance"], ["thirds", "pooled"]], [_PANEL, _PANEL, last])
    points(axes["sites"], numbers(outputs, "x") + 0.1, outputs, "random_recovery", RANDOM, size=3)
    site_points(axes["sites"], outputs, "recovery")
    axes["sites"].set(title="At the outputs of biased sites", ylabel=_TAKEN_BACK)
    for name, colour in (("random_recovery", RANDOM), ("recovery", BIASES)):
        line(axes["stream"], layers, stream, name, colour)
    axes["stream"].set(title="In the residual stream after each layer", ylabel=_TAKEN_BACK)
    for name, colour in (("teal", TEAL), ("random", RANDOM), ("spon", BIASES)):
        line(axes["distance"], layers, stream, f"{name}_relative", colour)
    axes["distance"].set(title="Distance from the dense model", ylabel=_RELATIVE)
    thirds = ("first", "middle", "last")
    for name, colour in zip(thirds, SHADES, strict=True):
        line(axes["thirds"], layers, stream, f"recovery_{name}_third", colour)
    axes["thirds"].set(title="By third of the block's positions", ylabel=_TAKEN_BACK)
    colours = [BIASES if ", biases" in effect.label else RANDOM for effect in finding.effects]
    effects_panel(axes["pooled"], finding.effects, colours)
    axes["pooled"].set(title="All of a kind together")
    for name in ("sites", "stream", "thirds"):
        at(axes[name], 0)
        _cut(axes[name])
        layer_axis(axes[name])
    layer_axis(axes["distance"])
    at(axes["pooled"], 0, vertical=True)
    models = [dot(TEAL, "TEAL"), dot(BIASES, "biases"), dot(RANDOM, "random vectors (null)")]
    shades = [dot(c, f"{n} third", line="-") for n, c in zip(thirds, SHADES, strict=True)]
    key(figure, [*module_key(outputs), *models, *shades, dashed("as far as TEAL")])
    return figure


def _stream(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(layer=[int(place.removeprefix(_AFTER)) for place in words(rows, "place")])


def _cut(axis: Axes) -> None:
    """Keep a few far outliers from flattening the rest."""
    low, high = axis.get_ylim()
    if low < _WORST:
        axis.set_ylim(_WORST, high)
        axis.annotate(
            f"cut off at {_WORST:.0f}", (1, 0), xycoords="axes fraction", ha="right", va="bottom", fontsize=7.5
        )


def where(finding: Finding) -> Figure:
    """Recovery by bin of each property of tokens, and by category of prompts."""
    rows = table(finding)
    by = words(rows, "by")
    names = list(dict.fromkeys(by))
    lines = -(-len(names) // 2)
    most = max(by.count(name) for name in names)
    figure = blank(finding, lines * (0.9 + 0.36 * most) + 0.4)
    grid = figure.subplots(lines, 2, squeeze=False)
    for axis, name in zip(grid.flat, names, strict=False):
        _bins(axis, rows[np.array(by) == name])
        axis.set_title(f"By {name}")
    for axis in list(grid.flat)[len(names) :]:
        axis.set_visible(False)
    key(figure, [dot(BIASES, "biases"), dot(RANDOM, "random vectors (null)"), dashed("nothing recovered")])
    return figure


def _bins(axis: Axes, rows: pd.DataFrame) -> None:
    places = np.arange(len(rows), dtype=np.float64)[::-1]
    for name, colour, shift in (("random_recovered", RANDOM, -0.15), ("recovered", BIASES, 0.15)):
        axis.hlines(places + shift, numbers(rows, f"{name}_low"), numbers(rows, f"{name}_high"), color=colour)
        axis.plot(numbers(rows, name), places + shift, "o", color=colour, markersize=5)
    kl = numbers(rows, "teal_kl_nats")
    labels = [f"{label}\nTEAL {nats:.3g} nats" for label, nats in zip(words(rows, "bin"), kl, strict=True)]
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("fraction of TEAL's KL taken back")
    at(axis, 0, vertical=True)


def categories(finding: Finding) -> Figure:
    """What differs between categories against shuffled labels, and shift and CKA along the layers of each."""
    rows = table(finding)
    of = words(rows, "category")
    names = list(dict.fromkeys(of))
    columns = min(5, len(names))
    lines = -(-len(names) // columns)
    figure = blank(finding, 3.0 + 3.6 * lines)
    [upper], [lower] = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.7, 3.6 * lines))
    means, between = upper.subplots(1, 2)
    _by_category(means, finding, names)
    tested = [effect for effect in finding.effects if effect.null is not None]
    colours = [_MODELS.get(effect.label.partition(":")[0], "black") for effect in tested]
    effects_panel(between, tested, colours, [effect.label.partition(":")[0] for effect in tested])
    between.set(title="Variance of shifts between categories", xlabel="fraction of the variance over prompts")
    grid = lower.subplots(2 * lines, columns, squeeze=False, sharex=True, sharey="row")
    for place, name in enumerate(names):
        some = rows[np.array(of) == name]
        across, down = place % columns, 2 * (place // columns)
        for axis, what in ((grid[down, across], "relative"), (grid[down + 1, across], "cka")):
            for mode, colour in (("teal", TEAL), ("spon", BIASES)):
                line(axis, numbers(some, "layer"), some, f"{mode}_{what}", colour)
            layer_axis(axis, ticks=6)
        grid[down, across].set(title=name, xlabel="")
        if across == 0:
            grid[down, 0].set_ylabel(_RELATIVE)
            grid[down + 1, 0].set_ylabel("linear CKA\nwith dense")
    for place in range(len(names), columns * lines):
        for axis in grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]:
            axis.set_visible(False)
    key(figure, [dot(TEAL, "TEAL"), dot(BIASES, "biases"), dot("black", "biases minus TEAL"), bar("shuffled labels")])
    return figure


def _by_category(axis: Axes, finding: Finding, names: list[str]) -> None:
    """Mean shift of each category over prompts and layers, from the effects that have its interval."""
    found = {effect.label: effect for effect in finding.effects}
    for y, name in enumerate(reversed(names)):
        for said, colour, shift in (("TEAL", TEAL, 0.12), ("biases", BIASES, -0.12)):
            if (effect := found.get(f"{name}: relative shift, {said}")) is not None:
                if effect.interval is not None:
                    axis.plot(effect.interval, [y + shift] * 2, color=colour)
                axis.plot([effect.value], [y + shift], "o", color=colour, markersize=5)
    axis.set_yticks(range(len(names)), names[::-1])
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set(title="Mean over layers and prompts", xlabel="relative shift, |h - h dense| / |h dense|")
