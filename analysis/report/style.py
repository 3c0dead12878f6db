"""The style of all figures: colours, shapes and legend entries."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from search_spaces.sites import MODULES

TEAL, BIASES, RANDOM, NULL = "#D55E00", "#0072B2", "#777777", "#D5D5D5"
"""Orange and blue of Okabe and Ito, and greys for nulls. They differ even without colour vision."""
MODULE_COLOURS: Mapping[str, str] = dict(
    zip(MODULES, ("#332288", "#117733", "#999933", "#AA4499", "#882255", "#CC6677", "#2A8F83"), strict=True)
)
MODULE_MARKERS: Mapping[str, str] = dict(zip(MODULES, "v^<sPXo", strict=True))
"""Every module has a shape besides its colour, because seven colours alone are too many."""

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


def look() -> AbstractContextManager[None]:
    """Apply the settings for drawing and saving figures."""
    return matplotlib.rc_context(_SETTINGS)


def dot(
    colour: str, label: str, marker: str = "o", fill: str | None = None, line: Literal["none", "-"] = "none"
) -> Line2D:
    """Make a legend entry."""
    fill = colour if fill is None else fill
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=fill, linestyle=line, markersize=5, label=label)


def hollow(label: str) -> Line2D:
    """Make a legend entry for a site that agrees with the null."""
    return dot("black", f"hollow: {label}", fill="white")


def bar(label: str) -> Patch:
    """Make a legend entry for the range of a null."""
    return Patch(facecolor=NULL, label=label)


def dashed(label: str) -> Line2D:
    """Make a legend entry for a null that is a single value."""
    return Line2D([], [], color=RANDOM, linestyle="--", linewidth=1, label=label)
