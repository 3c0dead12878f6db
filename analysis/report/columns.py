"""Columns of a finding's rows, from which figures are drawn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.finding import Effect
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site

Numbers = NDArray[np.float64]


def words(rows: pd.DataFrame, name: str) -> list[str]:
    """Return a column of text.

    Raises:
        SponError: if there is no such column.
    """
    _check(rows, name)
    return [str(cell) for cell in rows[name]]


def numbers(rows: pd.DataFrame, name: str) -> Numbers:
    """Return a column of numbers, (rows,), with NaN for empty cells.

    Raises:
        SponError: if there is no such column, or a cell is text.
    """
    _check(rows, name)
    try:
        return pd.to_numeric(rows[name]).to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise SponError(f"the column {name} must hold numbers, but {error}") from error


def _check(rows: pd.DataFrame, name: str) -> None:
    if name not in rows:
        raise SponError(f"rows must have the column {name}, but have {', '.join(map(str, rows))}")


def spread(rows: pd.DataFrame, name: str) -> tuple[Numbers, Numbers] | None:
    """Return the ends of a column's intervals, (rows,) each; None if it has no intervals."""
    return (numbers(rows, f"{name}_low"), numbers(rows, f"{name}_high")) if f"{name}_low" in rows else None


def effects_of(rows: pd.DataFrame, name: str, labels: Sequence[str]) -> list[Effect | None]:
    """Convert a column to effects, one for each row; None for empty cells."""
    columns = (numbers(rows, name), *(spread(rows, name) or ()))
    found: list[Effect | None] = []
    for label, value, *ends in zip(labels, *columns, strict=True):
        interval = (ends[0], ends[1]) if ends and np.isfinite(ends).all() else None
        found.append(Effect(label=label, value=value, interval=interval) if np.isfinite(value) else None)
    return found


def place_sites(rows: pd.DataFrame, column: str = "site") -> pd.DataFrame:
    """Add the layer and module of each row's site, and ``x``: the layer, with its sites side by side."""
    sites = [Site.parse(text) for text in words(rows, column)]
    present = [module for module in MODULES if any(site.module == module for site in sites)]
    step = 0.8 / len(present) if present else 0.0
    shift = {module: (i - (len(present) - 1) / 2) * step for i, module in enumerate(present)}
    return rows.assign(
        layer=[site.layer for site in sites],
        module=[site.module for site in sites],
        x=[site.layer + shift[site.module] for site in sites],
    )


def modules_of(rows: pd.DataFrame) -> list[str]:
    """Return the modules of placed rows, in the order of the forward pass."""
    return [module for module in MODULES if module in set(rows["module"])]


def columns_for(rows: pd.DataFrame) -> int:
    """Return how many panels fit side by side. With many sites in a layer, a panel needs the whole width."""
    return 2 if len(modules_of(rows)) <= 3 else 1
