"""Writes the figures, tables and report of a directory of results, from stored results alone.

The report is one HTML file that loads nothing from elsewhere. It shows all trials side by side and their comparison,
then each trial, with one expandable line for each question.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from analysis.finding import Effect, Finding
from analysis.report.figures import DRAWINGS, draw, draw_together, write_figure
from analysis.report.stored import Stored, read_results
from analysis.report.tables import NEGATIVE, as_latex, effects_row, effects_table, rows_table
from search_spaces.errors import SponError

REPORT, TABLES, TOGETHER = "report.html", "tables.tex", "trials"

_MARKS = {
    "above its null": "\N{BLACK UP-POINTING TRIANGLE}",
    "below its null": "\N{BLACK DOWN-POINTING TRIANGLE}",
    "not clear of its null": "\N{MIDDLE DOT}",
}
_NUMERIC = re.compile(r"[-+\d.,e\[\] ]*|yes|no")
_WORDS = {
    "TEAL": "Sets entries of a linear layer's input with a small magnitude to zero. The weights that multiply them "
    "need not be read.",
    "SPON, bias": "A learned vector added to the output of a site, which repairs part of TEAL's damage.",
    "Site, level": "One linear layer of the decoder, and the share of its input that is set to zero.",
    "Plan": "Which sites are sparse, at which levels, by which rule. Only trials of one plan are compared.",
    "Allocation": "Which sites have a bias.",
    "Split": "Text for one purpose: calibration trains, validation chooses, test judges what was chosen.",
    "KL": "KL(dense || sparse), in nats per token: how far the next-token distribution is from the dense model's.",
    "Misfit": "The damage of TEAL to the likelihood of the text beyond the KL: NLL damage = KL + misfit.",
    "Recovered": "The share of TEAL's damage that the biases repair; 1 is all of it.",
    "Null": "The figure if there were nothing to find. An effect counts if its interval is clear of the null.",
}


def publish(directory: Path) -> list[Path]:
    """Write ``figures/`` beside every result of a directory, and its report and tables, and return all these files.

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
    files = []
    for finding in stored.findings:
        try:
            files += write_figure(draw(finding), stored.figures / finding.analysis)
        except SponError as error:
            raise SponError(f"{error} (at {finding.analysis}) (at {stored.file})") from error
    return files


def render(results: Sequence[Stored], title: str, together: Path | None) -> str:
    """Render the report, with the figures on disk and that of trials on the same text (``together``, PNG)."""
    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    ordered = sorted(results, key=lambda stored: not stored.compares)
    sections = [_section(stored, f"r{place}") for place, stored in enumerate(ordered, 1)]
    trials = [section for section in sections if section["trial"]]
    overview = _overview(trials) if len(trials) > 1 else []
    curves = together and _image(together)
    page = environment.get_template("report.html.j2")
    return page.render(title=title, sections=sections, trials=trials, overview=overview, curves=curves, words=_WORDS)


def _overview(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one line for each question that several trials answer: the first figure of each answer, a cell per trial."""
    lines: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
    for column, trial in enumerate(trials):
        for item in trial["findings"]:
            if item["finding"].effects:
                effect = item["finding"].effects[0]
                line = lines.setdefault((item["finding"].title, effect.label), [None] * len(trials))
                line[column] = {"id": item["id"], **_glance(effect)}
    shared = {key: cells for key, cells in lines.items() if len(cells) - cells.count(None) > 1}
    return [{"title": title, "label": label, "cells": cells} for (title, label), cells in shared.items()]


def _glance(effect: Effect) -> dict[str, str]:
    """Summarise an effect in one cell: its value with the interval, and whether it is clear of its null."""
    _, value, spread, *_ = effects_row(effect)
    said, text = _clear(effect), NEGATIVE.sub("\N{MINUS SIGN}", f"{value} {spread}".strip())
    return {"text": text, "said": said, "mark": _MARKS[said]}


def _clear(effect: Effect) -> str:
    """Say whether an effect is clear of its null.

    A figure without an interval is compared with the range of its null. Without a range it could be anything, unless it
    counts sites, which is exact.
    """
    null_low, null_high = effect.null or (0.0, 0.0)
    exact = null_low < null_high or effect.unit == "sites"
    low, high = effect.interval or ((effect.value, effect.value) if exact else (-math.inf, math.inf))
    return "above its null" if low > null_high else "below its null" if high < null_low else "not clear of its null"


def _section(stored: Stored, key: str) -> dict[str, Any]:
    return {
        "id": key,
        "name": stored.name,
        "trial": None if stored.compares else _trial(stored),
        "findings": [_finding(finding, stored, key) for finding in stored.findings],
    }


def _trial(stored: Stored) -> dict[str, Any]:
    """Describe a trial: subject, validation scores, and the date of the examination."""
    metrics = stored.subjects[0].metrics
    return {
        "subject": stored.subjects[0],
        "kl": _arrow(metrics, ("val_teal_kl_nats", "val_kl_nats"), ".4f"),
        "ppl": _arrow(metrics, ("val_dense_ppl", "val_teal_ppl", "val_ppl"), ".2f"),
        "examined": f"{datetime.fromtimestamp(stored.file.stat().st_mtime, UTC):%Y-%m-%d}",
    }


def _arrow(metrics: Mapping[str, float], names: Sequence[str], digits: str) -> str:
    """Join figures from one model to the next; empty if the checkpoint lacks one."""
    if not metrics.keys() >= set(names):
        return ""
    return " \N{RIGHTWARDS ARROW} ".join(f"{metrics[name]:{digits}}" for name in names)


def _image(file: Path) -> dict[str, Any]:
    with Image.open(file) as figure:
        (width, height), webp = figure.size, BytesIO()
        figure.convert("RGB").quantize(128).save(webp, "WEBP", lossless=True)  # a quarter of the PNG
    data = base64.b64encode(webp.getvalue()).decode()
    return {"source": f"data:image/webp;base64,{data}", "width": width, "height": height}


def _finding(finding: Finding, stored: Stored, key: str) -> dict[str, Any]:
    return {
        "id": f"{key}-{finding.analysis}",
        "finding": finding,
        "effects": _table(effects_table(finding)),
        "rows": _table(rows_table(finding)),
        "image": _image(stored.figures / f"{finding.analysis}.png"),
        "shows": DRAWINGS[finding.analysis].shows,
    }


def _table(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the column heads, whether each column is numeric, and the rows."""
    numeric = [all(_NUMERIC.fullmatch(cell) for cell in cells[name]) for name in cells]
    rows = [[NEGATIVE.sub("\N{MINUS SIGN}", cell) for cell in row] for row in cells.itertuples(index=False)]
    return {"heads": list(cells), "numeric": numeric, "rows": rows}
