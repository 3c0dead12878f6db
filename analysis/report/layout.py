"""Lays out a figure: title and verdict, blocks of panels, and one legend below them."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.report.panels import Panel, Sites, modules_of
from analysis.report.style import MODULE_COLOURS, MODULE_MARKERS, dot

_WIDTH = 11.0  # inches
_TITLE, _LINE, _PAD, _KEY = 0.36, 0.18, 0.12, 0.21  # inches
_VERDICT_CHARACTERS = 140
_KEY_CHARACTERS = 150


class Block(NamedTuple):
    """Panels in lines of ``columns`` each.

    Attributes:
        alike: whether panels of a line share the y axis.
    """

    columns: int
    panels: Sequence[Panel]
    alike: bool = False

    @property
    def heights(self) -> list[float]:
        """Inches of each line."""
        lines = (self.panels[i : i + self.columns] for i in range(0, len(self.panels), self.columns))
        return [max(panel.height(self.columns) for panel in line) for line in lines]


def figure_of(title: str, verdict: str, blocks: Sequence[Block], key: Iterable[Artist]) -> Figure:
    """Draw blocks of panels one below the other, under a title and a verdict.

    ``key`` has the entries of the legend besides those of the modules of sites and those of single panels.
    """
    panels = [panel for block in blocks for panel in block.panels]
    present = {module for panel in panels if isinstance(panel, Sites) for module in modules_of(panel.rows)}
    modules = (dot(MODULE_COLOURS[name], name, marker) for name, marker in MODULE_MARKERS.items() if name in present)
    handles = [*modules, *key, *(entry for panel in panels for entry in panel.key)]
    columns = max(1, min(7, _KEY_CHARACTERS // (7 + max(len(str(handle.get_label())) for handle in handles))))
    heights = [sum(block.heights) for block in blocks]
    figure = blank(title, verdict, sum(heights) + _PAD + _KEY * -(-len(handles) // columns))
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, block in zip(parts, blocks, strict=True):
        size = len(block.heights), block.columns
        axes = part.subplots(*size, squeeze=False, sharey=block.alike and "row", height_ratios=block.heights).flat
        for panel, axis in zip_longest(block.panels, list(axes)):
            if panel is None:
                axis.set_visible(False)
                continue
            panel.draw(axis, block.columns)
            if block.alike:
                axis.label_outer()
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8.5)
    return figure


def blank(title: str, verdict: str, height: float) -> Figure:
    """Make an empty figure under a title and a verdict, with ``height`` inches for panels."""
    lines = textwrap.wrap(verdict, _VERDICT_CHARACTERS) or [""]
    head = _TITLE + _LINE * len(lines) + _PAD
    total = height + head
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, height / total), h_pad=0.06, w_pad=0.06)
    figure = Figure(figsize=(_WIDTH, total), layout=layout)
    left = 0.12 / _WIDTH
    figure.text(left, 1 - 0.1 / total, title, fontsize=13, fontweight="bold", va="top")
    figure.text(
        left, 1 - _TITLE / total, "\n".join(lines), fontsize=9.5, color="#333333", va="top", linespacing=_LINE * 72 / 12
    )
    return figure
