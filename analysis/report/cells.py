"""Formats findings as tables of text, with as many digits as their intervals warrant."""

import math
import re

import pandas as pd

from analysis.finding import Cell, Effect, Finding

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
    shown = (number(end) if decimals is None else f"{end:z.{decimals}f}" for end in (low, high))
    return f"[{', '.join(shown)}]"


def effects_table(finding: Finding) -> pd.DataFrame:
    """Tabulate the effects of a finding: label, value, interval, range of the null, unit."""
    columns = ("effect", "value", "95% interval", "null, 95%", "unit")
    return pd.DataFrame([effects_row(effect) for effect in finding.effects], columns=columns)


def effects_row(effect: Effect) -> tuple[str, str, str, str, str]:
    """Format an effect as a row of ``effects_table``."""
    value, spread = number(effect.value), ""
    if effect.interval is not None:
        decimals = decimals_of(*effect.interval)
        spread = interval(*effect.interval, decimals)
        value = value if decimals is None else f"{effect.value:z.{decimals}f}"
    return effect.label, value, spread, _null(effect.null), effect.unit


def _null(null: tuple[float, float] | None) -> str:
    if null is None:
        return ""
    return number(null[0]) if null[0] == null[1] else interval(*null, _null_decimals(*null))


def _null_decimals(low: float, high: float) -> int | None:
    return None if low.is_integer() and high.is_integer() else decimals_of(low, high)


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
    shown = number(value) if decimals is None else f"{value:z.{decimals}f}"
    return f"{shown} {interval(low, high, decimals)}"
