"""Tables of findings, with as many digits as their intervals warrant, as text and as LaTeX."""

import math
import re
from collections.abc import Sequence

import pandas as pd

from analysis.finding import Cell, Effect, Finding
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
_MOST_DECIMALS = 7
NEGATIVE = re.compile(r"(?<![\w.)])-(?=\d)")
"""The sign of a negative number, to be typeset as a minus and not as a hyphen."""


def number(value: float) -> str:
    """Format a number without an interval: integers in full, others to four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def decimals_of(low: float, high: float) -> int | None:
    """Return the decimals that show two digits of an interval's width; None if no fixed number of decimals would."""
    if not high > low:
        return None
    decimals = 1 - math.floor(math.log10(high - low))
    return max(0, decimals) if decimals <= _MOST_DECIMALS else None


def interval(low: float, high: float, decimals: int | None) -> str:
    """Format an interval as ``[low, high]``."""
    return f"[{', '.join(_fixed(end, decimals) for end in (low, high))}]"


def _fixed(value: float, decimals: int | None) -> str:
    return number(value) if decimals is None else f"{value:z.{decimals}f}"


def effects_table(finding: Finding) -> pd.DataFrame:
    """Tabulate the effects of a finding: label, value, interval, range of the null, unit."""
    columns = ("effect", "value", "95% interval", "null, 95%", "unit")
    return pd.DataFrame([effects_row(effect) for effect in finding.effects], columns=columns)


def effects_row(effect: Effect) -> tuple[str, str, str, str, str]:
    """Format an effect as a row of ``effects_table``."""
    ends, decimals = effect.interval, decimals_of(*effect.interval) if effect.interval else None
    spread = interval(*ends, decimals) if ends else ""
    return effect.label, _fixed(effect.value, decimals), spread, _null(effect.null), effect.unit


def _null(null: tuple[float, float] | None) -> str:
    if null is None:
        return ""
    low, high = null
    whole = low.is_integer() and high.is_integer()
    return number(low) if low == high else interval(low, high, None if whole else decimals_of(low, high))


def rows_table(finding: Finding) -> pd.DataFrame:
    """Tabulate the rows of a finding. Intervals appear in the cells of their column."""
    keys = list(dict.fromkeys(key for row in finding.rows for key in row))
    ends = {f"{key}{end}" for key in keys for end in ("_low", "_high")}
    shown = [key for key in keys if key not in ends]
    cells = [
        [_cell(row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high")) for key in shown] for row in finding.rows
    ]
    return pd.DataFrame(cells, columns=[key.replace("_", " ") for key in shown])


def _cell(value: Cell, low: Cell, high: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return number(value)
    decimals = decimals_of(low, high)
    return f"{_fixed(value, decimals)} {interval(low, high, decimals)}"


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
