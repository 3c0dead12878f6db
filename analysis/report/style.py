"""One look for all figures: what a colour means, how sites are placed, how an interval and a null are drawn."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from analysis.finding import Effect, Finding
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site

Numbers = NDArray[np.float64]

TEAL, BIASES, RANDOM, NULL = "#D55E00", "#0072B2", "#777777", "#D5D5D5"
"""Orange and blue of Okabe and Ito, and greys for what is not the biases' doing: told apart without colour vision."""
MODULE_COLOURS: Mapping[str, str] = dict(
    zip(MODULES, ("#332288", "#117733", "#999933", "#AA4499", "#882255", "#CC6677", "#2A8F83"), strict=True)
)
MODULE_MARKERS: Mapping[str, str] = dict(zip(MODULES, "v^<sPXo", strict=True))
"""Every module has a shape beside its colour: seven colours alone are too many."""
SHADES = ("#9ECAE1", "#3182BD", "#08306B")

_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.hashsalt": "spon",  # the same figure is the same file
}

WIDTH = 11.0  # inches
_TITLE, _LINE, _PAD = 0.36, 0.18, 0.12  # inches
_VERDICT_CHARACTERS = 140


def look() -> AbstractContextManager[None]:
    """The settings that figures are drawn and saved under."""
    return matplotlib.rc_context(_SETTINGS)


def blank(finding: Finding, height: float) -> Figure:
    """An empty figure under the question's title and the verdict, with room for panels.

    Args:
        finding: whose figure it is.
        height: of the panels, inches.
    """
    lines = textwrap.wrap(finding.verdict, _VERDICT_CHARACTERS) or [""]
    head = _TITLE + _LINE * len(lines) + _PAD
    total = height + head
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, height / total), h_pad=0.06, w_pad=0.06)
    figure = Figure(figsize=(WIDTH, total), layout=layout)
    left = 0.12 / WIDTH
    figure.text(left, 1 - 0.1 / total, finding.title, fontsize=13, fontweight="bold", va="top")
    figure.text(
        left, 1 - _TITLE / total, "\n".join(lines), fontsize=9.5, color="#333333", va="top", linespacing=_LINE * 72 / 12
    )
    return figure


def panels(figure: Figure, layout: list[Any], heights: Sequence[float] | None = None) -> dict[str, Axes]:
    """Panels by name.

    Args:
        figure: to put them on.
        layout: lists of names, a list a line; a name that is repeated is one wide panel.
        heights: of the lines, relative.
    """
    return figure.subplot_mosaic(layout, height_ratios=heights)


def table(finding: Finding) -> pd.DataFrame:
    """The rows of a finding, a column a key."""
    return pd.DataFrame(list(finding.rows))


def words(rows: pd.DataFrame, name: str) -> list[str]:
    """A column of text.

    Raises:
        SponError: if there is no such column.
    """
    _check(rows, name)
    return [str(cell) for cell in rows[name]]


def numbers(rows: pd.DataFrame, name: str) -> Numbers:
    """A column of numbers, (rows,), with NaN where a cell is empty.

    Raises:
        SponError: if there is no such column, or a cell is text.
    """
    _check(rows, name)
    try:
        return pd.to_numeric(rows[name]).to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise SponError(f"the column {name} must hold numbers, but {error}") from error


def _check(rows: pd.DataFrame, name: str) -> None:
    if name not in rows:
        raise SponError(f"rows must have the column {name}, but have {', '.join(map(str, rows))}")


def place_sites(rows: pd.DataFrame, column: str = "site") -> pd.DataFrame:
    """Rows with the layer and module of their site, and ``x``: the layer, sites of one layer side by side."""
    sites = [Site.parse(text) for text in words(rows, column)]
    present = [module for module in MODULES if any(site.module == module for site in sites)]
    step = 0.8 / len(present) if present else 0.0
    shift = {module: (i - (len(present) - 1) / 2) * step for i, module in enumerate(present)}
    return rows.assign(
        layer=[site.layer for site in sites],
        module=[site.module for site in sites],
        x=[site.layer + shift[site.module] for site in sites],
    )


def modules_of(rows: pd.DataFrame) -> list[str]:
    """Modules of placed rows, in the order of the forward pass."""
    return [module for module in MODULES if module in set(rows["module"])]


def columns_for(rows: pd.DataFrame) -> int:
    """Panels that fit beside one another: with many sites a layer, a panel needs the whole width."""
    return 2 if len(modules_of(rows)) <= 3 else 1


def points(
    axis: Axes,
    x: Numbers,
    rows: pd.DataFrame,
    name: str,
    colour: str,
    marker: str = "o",
    size: float = 4,
    fill: str | None = None,
) -> None:
    """A figure against x, with its interval where ``name_low`` and ``name_high`` are there."""
    if f"{name}_low" in rows:
        low, high = numbers(rows, f"{name}_low"), numbers(rows, f"{name}_high")
        axis.vlines(x, low, high, color=colour, linewidth=1, alpha=0.7)
    axis.plot(x, numbers(rows, name), marker, color=colour, markersize=size, markerfacecolor=fill or colour)


def site_points(
    axis: Axes, rows: pd.DataFrame, name: str, sure: NDArray[np.bool_] | None = None, colour: str | None = None
) -> None:
    """A figure of placed sites against layer.

    Args:
        axis: to draw on.
        rows: of ``place_sites``.
        name: of the column.
        sure: (rows,); markers are hollow where it is false.
        colour: of all, in the place of their modules'.
    """
    filled = np.ones(len(rows), dtype=np.bool_) if sure is None else sure
    for module in modules_of(rows):
        own, marker = colour or MODULE_COLOURS[module], MODULE_MARKERS[module]
        for fill, chosen in ((own, filled), ("white", ~filled)):
            some = rows[(rows["module"] == module).to_numpy() & chosen]
            if len(some):
                points(axis, numbers(some, "x"), some, name, own, marker, fill=fill)
    layer_axis(axis)


def line(axis: Axes, x: Numbers, rows: pd.DataFrame, name: str, colour: str, style: str = "-") -> None:
    """A figure along x, with its interval as a band where it is there."""
    axis.plot(x, numbers(rows, name), style, color=colour, linewidth=1.4, marker=".", markersize=4)
    if f"{name}_low" in rows:
        low, high = numbers(rows, f"{name}_low"), numbers(rows, f"{name}_high")
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def layer_axis(axis: Axes, ticks: int = 16) -> None:
    """Label the x axis in whole layers."""
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=1))
    first, last = axis.dataLim.intervalx
    if np.isfinite(first):
        axis.set_xlim(first - 0.6, last + 0.6)  # no tick for a layer that is not there


def log_axis(axis: Axes, values: Numbers) -> None:
    """Make y logarithmic if all values are above zero, with plain numbers on it."""
    if not (values <= 0).any():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


def at(axis: Axes, value: float, vertical: bool = False) -> None:
    """A dashed line where the null is a single value."""
    (axis.axvline if vertical else axis.axhline)(value, color=RANDOM, linestyle="--", linewidth=1, zorder=1)


def effects_panel(
    axis: Axes, effects: Sequence[Effect], colours: Sequence[str] | str = BIASES, labels: Sequence[str] | None = None
) -> None:
    """Effects of one unit, one below the other: value, interval, and the null's range as a grey bar behind it.

    Labels stand above their effects, within the panel, so that long ones do not narrow it.
    """
    chosen = [colours] * len(effects) if isinstance(colours, str) else colours
    named = [effect.label for effect in effects] if labels is None else labels
    on_left = blended_transform_factory(axis.transAxes, axis.transData)
    for y, effect, colour, name in zip(range(len(effects))[::-1], effects, chosen, named, strict=True):
        if effect.null is not None:
            low, high = effect.null
            axis.plot([low, high], [y, y], color=NULL, linewidth=9, solid_capstyle="butt", zorder=1)
            axis.plot([low, high], [y, y], "|", color=RANDOM, markersize=9, zorder=1)
        if effect.interval is not None:
            axis.plot(effect.interval, [y, y], color=colour, linewidth=1.6)
        axis.plot([effect.value], [y], "o", color=colour, markersize=5)
        shade = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
        axis.text(0.01, y + 0.28, name, transform=on_left, fontsize=8, va="bottom", bbox=shade)
    axis.set_yticks([])
    axis.set_ylim(-0.5, len(effects) - 0.15)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(", ".join(dict.fromkeys(effect.unit for effect in effects)))
    if all(effect.unit == "sites" for effect in effects):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def key(figure: Figure, handles: Iterable[Artist]) -> None:
    """One legend for all panels, below them."""
    shown = list(handles)
    longest = max(len(str(handle.get_label())) for handle in shown)
    figure.legend(handles=shown, loc="outside lower left", ncols=max(1, min(7, int(150 / (longest + 7)))), fontsize=8.5)


def dot(
    colour: str, label: str, marker: str = "o", fill: str | None = None, line: Literal["none", "-"] = "none"
) -> Line2D:
    """An entry of the legend."""
    fill = colour if fill is None else fill
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=fill, linestyle=line, markersize=5, label=label)


def bar(label: str, colour: str = NULL) -> Patch:
    """An entry of the legend for a band."""
    return Patch(facecolor=colour, label=label)


def dashed(label: str) -> Line2D:
    """An entry of the legend for ``at``."""
    return Line2D([], [], color=RANDOM, linestyle="--", linewidth=1, label=label)


def module_key(rows: pd.DataFrame) -> list[Line2D]:
    """Entries of the legend for the modules of placed rows."""
    return [dot(MODULE_COLOURS[module], module, MODULE_MARKERS[module]) for module in modules_of(rows)]
