"""Tables of all findings as text and as LaTeX."""

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
    """Every finding with its effects, for a terminal."""
    return "\n\n".join(_text(stored, finding) for stored in results for finding in stored.findings)


def _text(stored: Stored, finding: Finding) -> str:
    effects = effects_table(finding)
    head = f"{stored.name}  {finding.title}\n{finding.verdict}"
    return f"{head}\n{effects.to_string(index=False)}" if len(effects) else head


def as_latex(results: Sequence[Stored]) -> str:
    """A longtable of effects and one of rows for every finding."""
    parts = [HEAD]
    for stored in results:
        for finding in stored.findings:
            caption = f"{finding.title}, {stored.name}"
            parts.append(f"\\paragraph{{{escape_latex(caption)}}} {escape_latex(finding.verdict)}.\n")
            parts.append(longtable(effects_table(finding), f"{caption}: effects.", "p{0.42\\linewidth}rrrl"))
            parts.append(longtable(rows_table(finding), f"{caption}: rows."))
    return "\n".join(part for part in parts if part)


def longtable(cells: pd.DataFrame, caption: str, columns: str | None = None) -> str:
    """A table of text for LaTeX, which may run over pages; nothing of an empty one."""
    if cells.empty:
        return ""
    escaped = cells.map(escape_latex).rename(columns=escape_latex)
    body = escaped.to_latex(
        index=False, escape=False, longtable=True, caption=escape_latex(caption), column_format=columns
    )
    return f"{{\\footnotesize\n{body}}}\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, with a true minus before numbers.

    A character beyond ASCII, as tokens have, becomes its escape: no font of LaTeX's has them all, and it stops at one
    that is missing.
    """
    ascii_only = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return NEGATIVE.sub("$-$", ascii_only.translate(_SPECIAL))
