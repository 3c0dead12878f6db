"""The figure of every question, made of its finding and of nothing else. One more is a function and its line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from analysis.finding import Finding
from analysis.report.figures_biases import logits, moments, norms, pca
from analysis.report.figures_text import categories, perplexity, shift, where
from analysis.report.figures_trials import cross, worth
from analysis.report.style import blank, look
from search_spaces.errors import SponError

_DPI = 120
_META = {"png": {"Software": None}, "svg": {"Date": None}}  # the same finding is the same file


class Drawing(NamedTuple):
    """How a finding is drawn.

    Attributes:
        draw: makes the figure of a finding that has rows.
        shows: what is to be seen on it, its caption and the text for those who do not see it.
    """

    draw: Callable[[Finding], Figure]
    shows: str


DRAWINGS: Mapping[str, Drawing] = {
    "perplexity": Drawing(
        perplexity,
        "Left, what TEAL, the biases and random vectors of their norms lose against the dense model, as a whole and in "
        "its two parts. Middle, what the biases take back of each. Right, the shares recovered, which "
        "are the same if the null holds.",
    ),
    "shift": Drawing(
        shift,
        "How much of TEAL's distance from the dense hidden states the biases take back, by layer: at the outputs of "
        "biased sites, in the residual stream and by third of a block's positions; the distance itself; and all of a "
        "kind together. Grey: random vectors of the same norms. Below zero, states are further away than under TEAL.",
    ),
    "where": Drawing(
        where,
        "Fraction of TEAL's KL that the biases take back, by kind of token. Grey: random vectors of the same norms. "
        "Under each bin, TEAL's mean KL there.",
    ),
    "categories": Drawing(
        categories,
        "How far TEAL and the biases are from the dense model by category of prompt; how much of that differs "
        "between categories, with the range under shuffled labels in grey; and, along the layers, relative distance "
        "and linear CKA with the dense states of each category.",
    ),
    "pca": Drawing(
        pca,
        "For each biased site, the largest cosine of its bias with a leading component, and the share of the bias in "
        "the span of all of them. Grey: what random vectors of the same width come to.",
    ),
    "moments": Drawing(
        moments,
        "Moments of each bias's entries by layer, with sampling intervals. Dashed: a Gaussian around zero.",
    ),
    "norms": Drawing(
        norms,
        "Norm of each bias by layer, as it is, over the norm of its site's output and over the norm of what sparsity "
        "takes there; and their rank correlations with depth, with the range without a trend in grey.",
    ),
    "logits": Drawing(
        logits,
        "Size and peak of what each bias does to the logits through the final norm and the head. Grey: the median of "
        "random vectors of its norm.",
    ),
    "worth": Drawing(
        worth,
        "KL lost without each bias, gained with it alone, and lost with a random vector in its place; cosine with the "
        "mean error of its site; and the KL of all biases scaled, or taken apart.",
    ),
    "cross": Drawing(
        cross,
        "Cosines of the biases of every two trials on the sites that they share, a tick a site, and their mean. Grey: "
        "the mean if layers are shifted.",
    ),
}
"""By the name of the question, in the order of the report."""


def drawing_of(finding: Finding) -> Drawing:
    """How a finding is drawn.

    Raises:
        SponError: if it answers no question that has a figure.
    """
    if finding.analysis not in DRAWINGS:
        raise SponError(f"a finding must be one of {', '.join(DRAWINGS)}, but got {finding.analysis!r}")
    return DRAWINGS[finding.analysis]


def draw(finding: Finding) -> Figure:
    """The figure of a finding.

    Raises:
        SponError: if its rows are not those of its question.
    """
    drawing = drawing_of(finding)
    with look():
        if finding.rows:
            try:
                return drawing.draw(finding)
            except SponError as error:
                raise SponError(f"{error} (at {finding.analysis})") from error
        figure = blank(finding, 0.6)
        figure.text(0.5, 0.2, "no rows to draw", ha="center", color="#555555")
        return figure


def write_figure(finding: Finding, directory: Path) -> list[Path]:
    """Draw a finding into ``NAME.png`` and ``NAME.svg`` and return the files.

    Raises:
        SponError: if its rows are not those of its question.
    """
    figure = draw(finding)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{finding.analysis}.{kind}" for kind in _META]
    with look():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout found once does for both files
        for file, meta in zip(files, _META.values(), strict=True):
            figure.savefig(file, dpi=_DPI, metadata=meta)
    return files
