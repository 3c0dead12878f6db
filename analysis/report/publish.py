"""Writes figures, report and tables of a directory of results."""

from pathlib import Path

from analysis.finding import Finding
from analysis.report.figures import draw, draw_together, write_figure
from analysis.report.html import render
from analysis.report.stored import Stored, read_results
from analysis.report.tables import as_latex
from search_spaces.errors import SponError

REPORT, TABLES, TOGETHER = "report.html", "tables.tex", "trials"


def publish(directory: Path) -> list[Path]:
    """Write ``figures/`` beside every result, and ``report.html`` and ``tables.tex``, from stored results alone.

    Args:
        directory: of the results of one or more trials.

    Returns:
        The files written.

    Raises:
        SponError: if there are no results, or one is broken.
    """
    results = read_results(directory)
    files = [file for stored in results for file in _figures(stored)]
    together = _together(results, directory / "figures" / TOGETHER)
    report, tables = directory / REPORT, directory / TABLES
    title, curves = f"SPON biases: {directory.resolve().name}", together[0] if together else None
    report.write_text(render(results, title, curves), encoding="utf-8")
    tables.write_text(as_latex(results), encoding="utf-8")
    return [*files, *together, report, tables]


def _together(results: list[Stored], stem: Path) -> list[Path]:
    """Draw trials' curves in one figure, PNG first; nothing if fewer than two read the same text.

    Curves on different text are not comparable, so the figure is for the text that most trials read.
    """
    shifts: dict[str, dict[str, Finding]] = {}
    for stored in results:
        for finding in stored.findings:
            if finding.analysis == "shift" and finding.rows:
                shifts.setdefault(stored.subjects[0].blocks, {})[stored.name] = finding
    text, alike = max(shifts.items(), key=lambda item: len(item[1]), default=("", {}))
    return write_figure(draw_together(alike, text), stem) if len(alike) > 1 else []


def _figures(stored: Stored) -> list[Path]:
    try:
        of = ((stored.figures / finding.analysis, finding) for finding in stored.findings)
        return [file for stem, finding in of for file in write_figure(draw(finding), stem)]
    except SponError as error:
        raise SponError(f"{error} (at {stored.file})") from error
