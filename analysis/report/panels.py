"""The panels of all figures: sites by layer, lines, and effects on the ranges of their nulls."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from analysis.finding import Effect
from analysis.report.style import BIASES, MODULE_COLOURS, MODULE_MARKERS, NULL, RANDOM, TEAL
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site

Numbers = NDArray[np.float64]
_LABELS = 110  # characters of a figure's width that labels of effects may take
_WIDE = 10.0  # largest magnitude on a linear axis that may be ``symlog``
_WORST = -1.0
"""Recovery at which a panel is cut off, because a random vector may move a state many times further away."""


def words(rows: pd.DataFrame, name: str) -> list[str]:
    """Return a column of text.

    Raises:
        SponError: if there is no such column.
    """
    _check(rows, name)
    return [str(cell) for cell in rows[name]]


def numbers(rows: pd.DataFrame, name: str) -> Numbers:
    """Return a column of numbers, (rows,), with NaN for empty cells.

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


def spread(rows: pd.DataFrame, name: str) -> tuple[Numbers, Numbers] | None:
    """Return the ends of a column's intervals, (rows,) each; None if it has no intervals."""
    return (numbers(rows, f"{name}_low"), numbers(rows, f"{name}_high")) if f"{name}_low" in rows else None


def effects_of(rows: pd.DataFrame, name: str, labels: Sequence[str]) -> list[Effect | None]:
    """Convert a column to effects, one for each row; None for empty cells."""
    columns = (numbers(rows, name), *(spread(rows, name) or ()))
    found: list[Effect | None] = []
    for label, value, *ends in zip(labels, *columns, strict=True):
        interval = (ends[0], ends[1]) if ends and np.isfinite(ends).all() else None
        found.append(Effect(label=label, value=value, interval=interval) if np.isfinite(value) else None)
    return found


def place_sites(rows: pd.DataFrame, column: str = "site") -> pd.DataFrame:
    """Add the layer and module of each row's site, and ``x``: the layer, with its sites side by side."""
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
    """Return the modules of placed rows, in the order of the forward pass."""
    return [module for module in MODULES if module in set(rows["module"])]


def columns_for(rows: pd.DataFrame) -> int:
    """Return how many panels fit side by side. With many sites in a layer, a panel needs the whole width."""
    return 2 if len(modules_of(rows)) <= 3 else 1


@dataclass(frozen=True)
class Panel:
    """Base class of panels.

    Attributes:
        title: above the panel.
        label: of the value axis.
        at: null that is a single value, drawn as a dashed line.
        scale: of the values. ``symlog`` stays linear unless there are large magnitudes, ``log`` unless all values are
            above zero. ``cut`` hides values far below.
        key: entries of the legend, in addition to those of the question and of modules.
    """

    title: str
    label: str
    _: KW_ONLY
    at: float | None = None
    scale: Literal["linear", "from zero", "log", "symlog", "cut"] = "linear"
    key: Sequence[Artist] = ()
    upright: ClassVar[bool] = True

    def height(self, columns: int) -> float:
        """Inches that it needs where so many panels stand side by side."""
        return 2.7 if columns <= 2 else 2.1

    def draw(self, axis: Axes, columns: int) -> None:
        """Draw the panel on an axis, one of ``columns`` side by side."""
        axis.set_title(self.title)
        (axis.set_ylabel if self.upright else axis.set_xlabel)(self.label)
        self._draw(axis, columns)
        if self.at is not None:
            (axis.axhline if self.upright else axis.axvline)(self.at, color=RANDOM, ls="--", linewidth=1, zorder=1)
        _scale(axis, self.scale)

    def _draw(self, axis: Axes, columns: int) -> None:
        raise NotImplementedError


def _scale(axis: Axes, scale: str) -> None:
    low, high = axis.dataLim.intervaly
    if scale == "from zero":
        axis.set_ylim(bottom=0)
    elif scale == "log" and 0 < low < high:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e4 * low else (1.0,)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif scale == "symlog" and max(-low, high) > _WIDE:
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
    elif scale == "cut" and low < _WORST:
        axis.set_ylim(bottom=_WORST)
        note = f"cut off at {_WORST:.0f}"
        axis.annotate(note, (1, 0), xycoords="axes fraction", ha="right", va="bottom", fontsize=7.5)


def _layers(axis: Axes, columns: int) -> None:
    """Label the x axis in whole layers."""
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=16 if columns <= 2 else 6, integer=True, min_n_ticks=1))
    first, last = axis.dataLim.intervalx
    if np.isfinite(first):
        axis.set_xlim(first - 0.6, last + 0.6)  # no tick for a layer that is not there


@dataclass(frozen=True)
class Sites(Panel):
    """One value for every site by layer, in the colour and shape of its module, with its interval if it has one.

    Attributes:
        rows: of ``place_sites``.
        column: of the values.
        sure: whether values are beyond the null, (rows,); other markers are hollow.
        null: grey columns behind the values: one with values of the null, or the two ends of its range.
    """

    rows: pd.DataFrame
    column: str
    sure: NDArray[np.bool_] | None = None
    null: Sequence[str] = ()

    def _draw(self, axis: Axes, columns: int) -> None:
        if len(self.null) == 2:
            low, high = (numbers(self.rows, name) for name in self.null)
            axis.vlines(numbers(self.rows, "x"), low, high, color=NULL, linewidth=4, zorder=1)
        elif self.null:
            _points(axis, self.rows, self.null[0], RANDOM, "_")
        filled = np.ones(len(self.rows), dtype=np.bool_) if self.sure is None else self.sure
        for module in modules_of(self.rows):
            own = (self.rows["module"] == module).to_numpy()
            colour = MODULE_COLOURS[module]
            for fill, chosen in ((colour, own & filled), ("white", own & ~filled)):
                if chosen.any():
                    _points(axis, self.rows[chosen], self.column, colour, MODULE_MARKERS[module], fill)
        _layers(axis, columns)


def _points(axis: Axes, rows: pd.DataFrame, name: str, colour: str, marker: str, fill: str | None = None) -> None:
    x = numbers(rows, "x")
    if ends := spread(rows, name):
        axis.vlines(x, *ends, color=colour, linewidth=1, alpha=0.7)
    axis.plot(x, numbers(rows, name), marker, color=colour, markersize=8 if marker == "_" else 4, mfc=fill or colour)


@dataclass(frozen=True)
class Lines(Panel):
    """Values along the layers, or along another column, with their intervals as bands.

    Attributes:
        rows: in order.
        columns: of the values, with their colours.
        along: column of x.
    """

    rows: pd.DataFrame
    columns: Mapping[str, str]
    along: str = "layer"

    def _draw(self, axis: Axes, columns: int) -> None:
        axis.set_xlabel(self.along)
        x = numbers(self.rows, self.along)
        for name, colour in self.columns.items():
            axis.plot(x, numbers(self.rows, name), color=colour, linewidth=1.4, marker=".", markersize=4)
            if ends := spread(self.rows, name):
                axis.fill_between(x, *ends, color=colour, alpha=0.18, linewidth=0)
        if self.along == "layer":
            _layers(axis, columns)


@dataclass(frozen=True)
class Effects(Panel):
    """Effects one below the other: value, interval, and the null's range as a grey bar behind them.

    Attributes:
        lines: the effects of each line by its label; None for a missing effect.
        single: for each line, the figures that its effect averages, drawn as ticks.
    """

    lines: Mapping[str, Sequence[Effect | None]]
    single: Sequence[Numbers] = ()
    upright: ClassVar[bool] = False

    def _labels(self, columns: int) -> list[str]:
        wide = _LABELS // (columns + 1)
        return ["\n".join(textwrap.fill(part, wide) for part in label.split("\n")) for label in self.lines]

    def height(self, columns: int) -> float:
        """Inches that it needs where so many panels stand side by side."""
        tallest = max(
            [label.count("\n") for label in self._labels(columns)]
            + [0.8 * len(line) - 1 for line in self.lines.values()],
            default=0,
        )
        return 0.85 + len(self.lines) * (0.27 + 0.13 * tallest)

    def _draw(self, axis: Axes, columns: int) -> None:
        places = range(len(self.lines))[::-1]
        for y, single in zip(places, self.single, strict=False):
            axis.plot(single, np.full(len(single), float(y)), "|", color=BIASES, alpha=0.35, markersize=9)
        for y, line in zip(places, self.lines.values(), strict=True):
            for place, effect in enumerate(line):
                if effect is not None:
                    _effect(axis, y + 0.26 * ((len(line) - 1) / 2 - place), effect)
        axis.set_yticks(places, self._labels(columns), fontsize=8)
        axis.set_ylim(-0.6, len(self.lines) - 0.4)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=10 // columns + 1, integer=self.label == "sites"))


def _effect(axis: Axes, y: float, effect: Effect) -> None:
    colour = _colour(effect.label)
    if effect.null is not None:
        axis.plot(effect.null, [y, y], color=NULL, linewidth=9, solid_capstyle="butt", zorder=1)
        axis.plot(effect.null, [y, y], "|", color=RANDOM, markersize=9, zorder=1)
    if effect.interval is not None:
        axis.plot(effect.interval, [y, y], color=colour, linewidth=1.6)
    axis.plot([effect.value], [y], "o", color=colour, markersize=5)


def _colour(label: str) -> str:
    """Choose the colour of an effect by its label: that of biases, unless it names only random vectors or TEAL."""
    if "bias" in label:
        return BIASES
    return RANDOM if "random" in label else TEAL if "TEAL" in label else BIASES
