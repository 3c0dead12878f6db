"""Figures, report and tables of a directory of results."""

from pathlib import Path

from analysis.report.figures import draw, draw_together, write_figure
from analysis.report.html import render
from analysis.report.stored import Stored, read_results
from analysis.report.tables import as_latex
from search_spaces.errors import SponError

REPORT, TABLES, TOGETHER = "report.html", "tables.tex", "trials"


def publish(directory: Path) -> list[Path]:
    """Write ``figures/`` beside every result, and ``report.html`` and ``tables.tex``, from what is stored alone.

    Args:
        directory: of the results of one or more trials.

    Returns:
        The files written.

    Raises:
        SponError: if there are no results, or one is broken.
    """
    results = read_results(directory)
    files = [file for stored in results for file in _figures(stored)]
    shifts = {one.name: finding for one in results for finding in one.findings if finding.analysis == "shift"}
    if len(shifts) > 1:
        files += write_figure(draw_together(shifts), directory / "figures" / TOGETHER)
    report, tables = directory / REPORT, directory / TABLES
    together = directory / "figures" / f"{TOGETHER}.png" if len(shifts) > 1 else None
    report.write_text(render(results, f"SPON biases: {directory.resolve().name}", together), encoding="utf-8")
    tables.write_text(as_latex(results), encoding="utf-8")
    return [*files, report, tables]


def _figures(stored: Stored) -> list[Path]:
    try:
        drawn = {finding.analysis: draw(finding) for finding in stored.findings}
        return [file for name, figure in drawn.items() for file in write_figure(figure, stored.figures / name)]
    except SponError as error:
        raise SponError(f"{error} (at {stored.file})") from error
