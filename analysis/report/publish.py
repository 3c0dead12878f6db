"""Figures, report and tables of a directory of results."""

from pathlib import Path

from analysis.report.figures import write_figure
from analysis.report.html import render
from analysis.report.stored import Stored, read_results
from analysis.report.tables import as_latex
from search_spaces.errors import SponError

REPORT, TABLES = "report.html", "tables.tex"


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
    report, tables = directory / REPORT, directory / TABLES
    report.write_text(render(results, f"SPON biases: {directory.resolve().name}"), encoding="utf-8")
    tables.write_text(as_latex(results), encoding="utf-8")
    return [*files, report, tables]


def _figures(stored: Stored) -> list[Path]:
    try:
        return [file for finding in stored.findings for file in write_figure(finding, stored.figures)]
    except SponError as error:
        raise SponError(f"{error} (at {stored.file})") from error
