"""Renders the board as text for a terminal, as text with all columns, as CSV, JSON and LaTeX, and as a picture."""

from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import Literal, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

Cell = Callable[[pd.Series], str]


class _Column(NamedTuple):
    name: str
    align: Literal["<", ">"]
    cell: Cell


_COLUMNS = (
    _Column("allocation", "<", lambda r: r["allocation"]),
    _Column("params", ">", lambda r: f"{r['n_spon_params']:,}"),
    _Column("KL, nats [95%]", "<", lambda r: interval(r, "kl_nats", ".4f")),
    _Column("KL recovered [95%]", "<", lambda r: _recovery_interval(r, "kl_recovered")),
    _Column("PPL", ">", lambda r: f"{r['ppl']:.2f}"),
    _Column("PPL recovered", ">", lambda r: _recovery(r, "ppl_recovered")),
)

_WIDE: dict[str, Cell] = {
    "allocation": lambda r: r["allocation"],
    "layers": lambda r: f"{r['n_spon_layers']}",
    "params": lambda r: f"{r['n_spon_params']:,}",
    "KL nats [95%]": lambda r: interval(r, "kl_nats", ".4f"),
    "KL - TEAL [95%]": lambda r: interval(r, "kl_minus_teal_nats", "+.4f"),
    "KL rec.": lambda r: _recovery(r, "kl_recovered"),
    "NLL nats": lambda r: f"{r['nll_nats']:.4f}",
    "PPL [95%]": lambda r: interval(r, "ppl", ".2f"),
    "PPL rec.": lambda r: _recovery(r, "ppl_recovered"),
    "vs TEAL % [95%]": lambda r: interval(r, "vs_teal_pct", "+.2f"),
    "vs dense": lambda r: f"{r['vs_dense_pct']:+.1f}%",
    "Pareto": lambda r: "*" if r["pareto"] else "",
}

_WIDTH = 100
"""Maximum characters per line of the text for a terminal."""
_SHORTEST = 17
"""Minimum characters of an allocation's name to show, even if the line is then too long."""
_MOST = 40
"""Trials of a plan that fit in a picture and on a screen."""


def best_of(board: pd.DataFrame) -> pd.DataFrame:
    """The best trials of each plan, as many as fit in view, and TEAL alone."""
    first = board.groupby("plan", sort=False).cumcount() < _MOST
    return board[first | (board["n_spon_params"] == 0)]


def interval(row: pd.Series, name: str, spec: str) -> str:
    """A column of the board with its interval, such as ``.0386 [.0353, .0415]``."""
    value, low, high = (format(row[key], spec) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} [{low}, {high}]" if low != high else value


def _recovery(row: pd.Series, name: str) -> str:
    return "no damage" if pd.isna(row[name]) else f"{row[name]:+.1%}"


def _recovery_interval(row: pd.Series, name: str) -> str:
    value, low, high = _recovery(row, name), row[f"{name}_low"], row[f"{name}_high"]
    return f"{value:>6} [{100 * low:+.1f}, {100 * high:+.1f}]" if low < high else f"{value:>6}"


def as_text(board: pd.DataFrame) -> str:
    """Tables for a terminal of 100 columns, one per sparsity plan, and a line that explains them."""
    plans = ["\n".join(_table(rows)) for _, rows in board.groupby("plan", sort=False)]
    return "\n\n".join([*plans, _key(board)])


def _table(rows: pd.DataFrame) -> list[str]:
    first = rows.iloc[0]
    head = wrap(f"{first['plan_title']}: {_baselines(first)}", _WIDTH, subsequent_indent="  ")
    names, *others = ([column.name, *(column.cell(row) for _, row in rows.iterrows())] for column in _COLUMNS)
    room = max(_SHORTEST, _WIDTH - sum(2 + max(map(len, cells)) for cells in others))
    names = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    aligned = []
    for cells, column in zip((names, *others), _COLUMNS, strict=True):
        width = max(map(len, cells))
        aligned.append([f"{cell:{column.align}{width}}" for cell in cells])
    return head + ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]


def _key(board: pd.DataFrame) -> str:
    first = board.iloc[0]
    unsure = board[["kl_recovered", "ppl_recovered"]].isna().any(axis=None)
    share = "no damage: TEAL's is not certain" if unsure else "recovered: of TEAL's damage"
    return f"[95%]: paired, over {first['split']} {first['bootstrap_over']}; KL: KL(dense || sparse); {share}"


def _baselines(row: pd.Series) -> str:
    return f"dense PPL {row['dense_ppl']:.2f}; TEAL alone PPL {row['teal_ppl']:.2f}, KL {row['teal_kl_nats']:.4f} nats"


def as_wide_text(board: pd.DataFrame) -> str:
    """Tables with all columns, one per sparsity plan."""
    first = board.iloc[0]
    head = f"{first['split']} split; 95% paired bootstrap over {first['bootstrap_over']}; * = Pareto on validation KL"
    lines = [head]
    for plan, rows in board.groupby("plan", sort=False):
        first = rows.iloc[0]
        lines += ["", f"{plan} (realised {first['realised_sparsity']:.3f}): {_baselines(first)}"]
        lines.append(_cells(rows).to_string(index=False))
    return "\n".join(lines)


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: [cell(row) for _, row in rows.iterrows()] for name, cell in _WIDE.items()})


def as_latex(board: pd.DataFrame) -> str:
    """One LaTeX table with the plan as its first column."""
    cells = _cells(board)
    cells.insert(0, "plan", board["plan"])
    return str(cells.to_latex(index=False, escape=True))


def difference_figure(board: pd.DataFrame) -> Figure:
    """The change of KL and perplexity by the biases against TEAL alone, with paired intervals, one row per trial.

    If there are many trials, the best of each plan.
    """
    best = best_of(board)
    rows = best[best["n_spon_params"] > 0].iloc[::-1]  # the first at the top
    names = [f"{r['allocation']}, {r['n_spon_params']:,} params, {r['plan']}" for _, r in rows.iterrows()]
    figure = Figure(figsize=(11, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, column, unit in (
        (axes[0], "kl_minus_teal_nats", "KL, SPON minus TEAL alone, nats"),
        (axes[1], "vs_teal_pct", "perplexity, SPON against TEAL alone, %"),
    ):
        errors = [rows[column] - rows[f"{column}_low"], rows[f"{column}_high"] - rows[column]]
        axis.errorbar(rows[column], range(len(rows)), xerr=errors, fmt="o", capsize=3)
        axis.axvline(0, linestyle="--", color="grey")
        axis.set_xlabel(unit)
    axes[0].set_yticks(range(len(rows)), names, fontsize=8)
    figure.suptitle(f"{board.iloc[0]['split']} split, 95% paired intervals; left of zero is better", fontsize=10)
    return figure


def write_board(board: pd.DataFrame, directory: Path) -> list[Path]:
    """Write the board in every format into the sweep's folder and return the files."""
    files = [directory / f"board.{kind}" for kind in ("txt", "csv", "json", "tex", "png")]
    files[0].write_text(as_wide_text(board) + "\n")
    board.to_csv(files[1], index=False)
    board.to_json(files[2], orient="records", indent=1)
    files[3].write_text(as_latex(board))
    figure = difference_figure(board)
    figure.savefig(files[4], dpi=150)
    return files
