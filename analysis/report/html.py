"""One HTML file with every finding of a directory: nothing in it is loaded from elsewhere, and it has no script."""

import base64
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.finding import Finding
from analysis.report.cells import NEGATIVE, effects_table, rows_table
from analysis.report.figures import drawing_of
from analysis.report.stored import Stored

_NUMERIC = re.compile(r"[-+\d.,e\[\] ]*|yes|no")


def render(results: Sequence[Stored], title: str) -> str:
    """The report.

    Args:
        results: with their figures on disk.
        title: of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(stored, f"r{place}") for place, stored in enumerate(results, 1)]
    return environment.get_template("report.html.j2").render(title=title, sections=sections)


def _section(stored: Stored, key: str) -> dict[str, Any]:
    return {
        "id": key,
        "name": stored.name,
        "compares": stored.compares,
        "subjects": stored.subjects,
        "findings": [_finding(finding, stored, key) for finding in stored.findings],
    }


def _finding(finding: Finding, stored: Stored, key: str) -> dict[str, Any]:
    png = (stored.figures / f"{finding.analysis}.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # of the header that every PNG begins with
    return {
        "id": f"{key}-{finding.analysis}",
        "finding": finding,
        "effects": _table(effects_table(finding)),
        "rows": _table(rows_table(finding)),
        "image": f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "width": width,
        "height": height,
        "shows": drawing_of(finding).shows,
    }


def _table(cells: pd.DataFrame) -> dict[str, Any]:
    """Column heads, whether each column is of numbers, and the rows."""
    numeric = [all(_NUMERIC.fullmatch(cell) for cell in cells[name]) for name in cells]
    rows = [[NEGATIVE.sub("\N{MINUS SIGN}", cell) for cell in row] for row in cells.itertuples(index=False)]
    return {"heads": list(cells), "numeric": numeric, "rows": rows}
