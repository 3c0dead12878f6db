"""Renders tables of all findings as text and as LaTeX."""

from collections.abc import Sequence

import pandas as pd

from analysis.finding import Finding
from analysis.report.cells import NEGATIVE, effects_table, rows_table
from analysis.report.stored import Stored

_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)
HEAD = "% Made by `python -m analysis` from stored results.\n% \\usepackage{booktabs,longtable}\n"


def as_text(results: Sequence[Stored]) -> str:
    """Render every finding with its effects for a terminal."""
    return "\n\n".join(_text(stored, finding) for stored in results for finding in stored.findings)


def _text(stored: Stored, finding: Finding) -> str:
    effects = effects_table(finding)
    head = f"{stored.name}  {finding.title}\n{finding.verdict}"
    return f"{head}\n{effects.to_string(index=False)}" if len(effects) else head


def as_latex(results: Sequence[Stored]) -> str:
    """Render a longtable of effects and one of rows for every finding."""
    parts = [HEAD]
    for stored in results:
        for finding in stored.findings:
            caption = f"{finding.title}, {stored.name}"
            parts.append(f"\\paragraph{{{escape_latex(caption)}}} {escape_latex(finding.verdict)}.\n")
            parts.append(longtable(effects_table(finding), f"{caption}: effects.", "p{0.42\\linewidth}rrrl"))
            parts.append(longtable(rows_table(finding), f"{caption}: rows."))
    return "\n".join(part for part in parts if part)


def longtable(cells: pd.DataFrame, caption: str, columns: str | None = None) -> str:
    """Render a table of text as LaTeX that may span pages; empty for an empty table."""
    if cells.empty:
        return ""
    escaped = cells.map(escape_latex).rename(columns=escape_latex)
    body = escaped.to_latex(
        index=False, escape=False, longtable=True, caption=escape_latex(caption), column_format=columns
    )
    return f"{{\\footnotesize\n{body}}}\n"


def escape_latex(text: str) -> str:
    """Escape text for LaTeX, with a true minus before numbers.

    Non-ASCII characters, which tokens contain, become escape sequences: no LaTeX font has them all, and LaTeX stops at
    a missing one.
    """
    ascii_only = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return NEGATIVE.sub("$-$", ascii_only.translate(_SPECIAL))
