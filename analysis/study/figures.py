"""The study's seven figures, redrawn from the comparison alone, in Okabe and Ito's colours for the colour-blind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import LineStyleType, RcKeyType

from analysis.study.compare import StudyComparison
from analysis.study.perplexity import SweepRow
from analysis.study.vectors import AlignmentRow, BiasRow, PairRow, ShiftRow

BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E"
_SMALL = 8  # points
_STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "spon",  # else every drawing of the same data is another file
}
_LABEL: dict[str, Any] = {
    "padding": 2,
    "fontsize": _SMALL,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # a line behind a number would hide it
}
_MODULES = {"down_proj": BLUE, "o_proj": VERMILION}


def _colour(row: SweepRow) -> str:
    return _MODULES.get("+".join(row.modules), GREY)


def _layers(rows: Sequence[AlignmentRow | BiasRow | PairRow | ShiftRow]) -> list[str]:
    """Depth of each row's site, for an axis."""
    return [row.site.partition(".")[0] for row in rows]


def perplexity_bars(comparison: StudyComparison) -> Figure:
    """Figure 1: perplexity of every run; a bar starts at the dense model, so that its length is what sparsity costs."""
    sweep = comparison.sweep
    figure = Figure(figsize=(10, 5.2))
    axes = figure.subplots(1, len(sweep.sparsities), sharey=True, squeeze=False)
    for axis, level in zip(axes[0], sweep.sparsities, strict=True):
        rows = [row for row in sweep.rows if row.sparsity == level]
        costs = [row.ppl.ours - sweep.dense_ppl for row in rows]
        bars = axis.bar([r.allocation for r in rows], costs, bottom=sweep.dense_ppl, color=[_colour(r) for r in rows])
        axis.bar_label(bars, [f"{row.ppl.ours:.2f}" for row in rows], **_LABEL)
        for place, row in enumerate(rows):
            axis.hlines(sweep.teal_ppl(row.plan), place - 0.45, place + 0.45, color="black", linestyle=":")
        axis.axhline(sweep.dense_ppl, color="black", linewidth=1)
        axis.set_title(f"{level:.0%} sparsity")
        axis.tick_params(axis="x", rotation=35)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes[0, 0].set_ylabel("perplexity, test text")
    _module_legend(figure, sweep.rows, {"TEAL alone, same modules": ":", f"dense, {sweep.dense_ppl:.2f}": "-"})
    return figure


def _module_legend(figure: Figure, rows: Sequence[SweepRow], lines: dict[str, LineStyleType]) -> None:
    colours = {"+".join(row.modules): _colour(row) for row in rows}
    handles: list[Artist] = [Patch(color=colour) for colour in colours.values()]
    handles += [Line2D([], [], color="black", linestyle=style) for style in lines.values()]
    names = [*(f"{name} sparsified" for name in colours), *lines]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)


def damage_recovery(comparison: StudyComparison) -> Figure:
    """Figure 2: share of the damage that is repaired, against TEAL alone on the same modules."""
    sweep = comparison.sweep
    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots(1, len(sweep.sparsities), sharey=True, squeeze=False)
    for axis, level in zip(axes[0], sweep.sparsities, strict=True):
        rows = [row for row in sweep.rows if row.sparsity == level and row.recovered is not None]
        shares = [100 * (row.recovered or 0.0) for row in rows]
        bars = axis.bar([row.allocation for row in rows], shares, color=[_colour(row) for row in rows])
        axis.bar_label(bars, fmt="%.0f%%", **_LABEL)
        axis.set_title(f"{level:.0%} sparsity")
        axis.tick_params(axis="x", rotation=35)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        axis.set_ylim(min(0, *shares), 100)
    axes[0, 0].set_ylabel("perplexity damage recovered, %")
    _module_legend(figure, sweep.rows, {})
    return figure


def pareto_frontiers(comparison: StudyComparison) -> Figure:
    """Figure 3: perplexity against learned parameters, a panel a plan, for plans are not compared."""
    sweep = comparison.sweep
    plans = list(dict.fromkeys(row.plan for row in sweep.rows))
    modules = list(dict.fromkeys("+".join(row.modules) for row in sweep.rows))
    size = (5 * len(sweep.sparsities), 3.2 * len(modules) + 0.5)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(modules), len(sweep.sparsities), squeeze=False, sharex=True)
    for plan in plans:
        rows = [row for row in sweep.rows if row.plan == plan]
        axis = axes[modules.index("+".join(rows[0].modules)), sweep.sparsities.index(rows[0].sparsity)]
        _frontier(axis, comparison, plan, rows)
    for axis in axes[-1]:
        axis.set_xlabel("SPON parameters")
    for axis in axes[:, 0]:
        axis.set_ylabel("perplexity")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle=""))
    labels.append("not on the front")
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _frontier(axis: Axes, comparison: StudyComparison, plan: str, rows: Sequence[SweepRow]) -> None:
    frontier = next(f for f in comparison.sweep.frontiers if plan in f.by_plan)
    points = {row.allocation: (int(row.params.ours), row.ppl.ours) for row in rows if row.layers}
    points[f"TEAL on {'+'.join(rows[0].modules)}"] = (0, comparison.sweep.teal_ppl(plan))
    best = frontier.by_plan[plan]
    axis.step(
        *zip(*(points[name] for name in best), strict=True), where="post", color=GREY, label="Pareto front of the plan"
    )
    colour = _colour(rows[0])
    for name, point in points.items():
        fill = colour if name in best else "white"
        axis.plot(*point, "o", color=colour, markerfacecolor=fill, zorder=3)
        right = point[0] == max(x for x, _ in points.values())
        shift = (-9, -11) if right else (9, 5)
        side: Literal["right", "left"] = "right" if right else "left"
        axis.annotate(name, point, shift, textcoords="offset points", ha=side, fontsize=_SMALL)
    listed = [points[name] for name in frontier.study or () if name in points]
    ring: dict[str, Any] = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": "black"}
    axis.plot([x for x, _ in listed], [y for _, y in listed], "o", **ring, label="on the study's pooled list")
    axis.set_title(plan)
    axis.margins(0.12, 0.2)
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter("{x:,.0f}")


def pca_alignment(comparison: StudyComparison) -> Figure:
    """Figure 4: |cosine| with each principal component, and the largest of each layer against what chance gives."""
    found = comparison.alignments
    sizes = np.abs([row.cosines for row in found.rows])
    figure = Figure(figsize=(11, 4.2))
    heat, largest = figure.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
    image = heat.imshow(sizes, aspect="auto", cmap="cividis", vmin=0)
    for (y, x), size in np.ndenumerate(sizes):
        shade = "white" if size < sizes.max() * 0.6 else "black"
        heat.text(x, y, f"{size:.3f}", ha="center", va="center", fontsize=_SMALL, color=shade)
    heat.set_xticks(range(found.components))
    heat.set_yticks(range(len(found.rows)), _layers(found.rows))
    heat.set(xlabel="principal component, from 0", ylabel="layer", title="|cosine| of the bias with each component")
    figure.colorbar(image, ax=heat, location="left", label="|cosine|")
    largest.axvspan(found.chance_low, found.chance_high, color=GREY, alpha=0.25, label="chance, 5th to 95th percentile")
    largest.axvline(found.chance_mean, color=GREY, linestyle="--", label="chance, mean")
    largest.plot([row.max_alignment.ours for row in found.rows], range(len(found.rows)), "o", color=BLUE, label="bias")
    largest.set(xlabel="largest |cosine|", title=f"width {found.width}, {found.components} components", xlim=(0, None))
    largest.tick_params(axis="y", labelleft=True)
    figure.legend(*largest.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    return figure


def state_shift(comparison: StudyComparison) -> Figure:
    """Figure 5: how far hidden states are from the dense ones, and how much of it SPON recovers."""
    found = comparison.shifts
    layers = _layers(found.rows)
    figure = Figure(figsize=(10, 3.8))
    shift, recovery = figure.subplots(1, 2)
    shift.plot(layers, [row.teal for row in found.rows], "o-", color=GREY, label="TEAL alone")
    shift.plot(layers, [row.spon for row in found.rows], "s--", color=BLUE, label="with SPON")
    shift.set(xlabel="layer", ylabel="L2 distance to the dense hidden state", ylim=(0, None))
    shift.legend(frameon=False)
    bars = recovery.bar(layers, [row.recovery_pct for row in found.rows], color=BLUE)
    recovery.bar_label(bars, fmt="%.1f", **_LABEL)
    recovery.axhline(0, color="black", linewidth=1)
    of_means = found.recovery_of_means_pct
    recovery.axhline(found.mean_recovery_pct.ours, color=VERMILION, linestyle=":", label="mean of the percentages")
    recovery.axhline(of_means, color=GREEN, linestyle="--", label="percentage of the mean shifts")
    recovery.set(xlabel="layer", ylabel="shift recovered by SPON, %")
    recovery.margins(y=0.1)
    recovery.legend(frameon=False, loc="lower right")
    return figure


def cross_configuration(comparison: StudyComparison) -> Figure:
    """Figure 6: the two checkpoints at the sites that they share."""
    rows = comparison.pairs
    layers = _layers(rows)
    figure = Figure(figsize=(10, 3.8))
    cosine, distance = figure.subplots(1, 2)
    cosine.plot(layers, [row.cosine.ours for row in rows], "o-", color=BLUE)
    for place, row in enumerate(rows):
        value, spot = row.cosine.ours, (place, row.cosine.ours)
        cosine.annotate(f"{value:.3f}", spot, (6, 5), textcoords="offset points", fontsize=_SMALL)
    cosine.axhline(
        comparison.mean_cosine.ours, color=GREY, linestyle="--", label=f"mean {comparison.mean_cosine.ours:.3f}"
    )
    cosine.set(xlabel="layer", ylabel="cosine")
    cosine.margins(0.13, 0.15)
    cosine.legend(frameon=False, loc="lower left")
    bars = distance.bar(layers, [row.l2.ours for row in rows], color=BLUE)
    distance.bar_label(bars, fmt="%.4f", **_LABEL)
    distance.set(xlabel="layer", ylabel="L2 distance")
    figure.suptitle(f"{comparison.analysed} and {comparison.other}", fontsize=10)
    return figure


def bias_statistics(comparison: StudyComparison) -> Figure:
    """Figure 7: norm, largest entry, kurtosis as the study has it and corrected, and share of positive entries."""
    figure = Figure(figsize=(11, 6.6))
    (norm, largest), (kurtosis, positive) = figure.subplots(2, 2)
    styles = dict(zip((comparison.analysed, comparison.other), ((BLUE, "o-"), (VERMILION, "s--")), strict=True))
    for name, (colour, style) in styles.items():
        rows = comparison.biases[name]
        layers = [int(layer) for layer in _layers(rows)]
        norm.plot(layers, [row.norm.ours for row in rows], style, color=colour, label=name)
        largest.plot(layers, [row.max_abs.ours for row in rows], style, color=colour)
        kurtosis.plot(layers, [row.excess_kurtosis for row in rows], style, color=colour)
        positive.plot(layers, [row.positive_fraction.ours for row in rows], style, color=colour)
    said = [row for row in comparison.biases[comparison.analysed] if row.kurtosis.study is not None]
    label = f"the study's kurtosis of {comparison.analysed}, over sd$^4$ + 1e-12"
    kurtosis.plot(
        [int(x) for x in _layers(said)], [row.kurtosis.study for row in said], "^:", color=PURPLE, label=label
    )
    kurtosis.axhline(0, color=GREY, linewidth=1)
    width = comparison.biases[comparison.analysed][0].width
    margin = 1.96 * np.sqrt(0.25 / width)
    chance = f"95% of fair coins, {width} tosses"
    positive.axhspan(0.5 - margin, 0.5 + margin, color=GREY, alpha=0.25, linewidth=0, label=chance)
    for axis, name in (
        (norm, "L2 norm"),
        (largest, "largest |entry|"),
        (kurtosis, "excess kurtosis"),
        (positive, "positive entries, fraction"),
    ):
        axis.set(xlabel="layer", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
    norm.set_ylim(0, None)
    largest.set_ylim(0, None)
    axes = (norm, kurtosis, positive)
    handles = [handle for axis in axes for handle in axis.get_legend_handles_labels()[0]]
    labels = [label for axis in axes for label in axis.get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


FIGURES: dict[str, Callable[[StudyComparison], Figure]] = {
    "fig1_perplexity_bars": perplexity_bars,
    "fig2_damage_recovery": damage_recovery,
    "fig3_pareto_frontiers": pareto_frontiers,
    "fig4_pca_alignment": pca_alignment,
    "fig5_hidden_state_shift": state_shift,
    "fig6_cross_configuration": cross_configuration,
    "fig7_bias_statistics": bias_statistics,
}


def write_figures(comparison: StudyComparison, directory: Path) -> list[Path]:
    """Draw every figure as PNG and SVG and return the files."""
    files = []
    for name, draw in FIGURES.items():
        with matplotlib.rc_context(_STYLE):
            figure = draw(comparison)
            for kind, metadata in (("png", None), ("svg", {"Date": None})):
                files.append(directory / f"{name}.{kind}")
                figure.savefig(files[-1], dpi=150, metadata=metadata)
    return files
