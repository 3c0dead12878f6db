"""The frontier: KL and perplexity against the share of weights that need not be read, by levels and by biases.

Only this module compares plans with one another. Plans of one sparsity have the same sites and the same mean level,
weighted by the weights of the sites, and so the same work.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from search_spaces.allocations import BASELINE
from search_spaces.sites import MODULES, Site
from sweep.store.folder import SweepFolder
from sweep.tune.levels import PlanLevels, SweepLevels
from sweep.views.render import interval
from trainables.checkpoint import read_checkpoint
from trainables.statistics import Interval, paired_bootstrap

FRONTIER = "frontier"
_NONE = "none"
"""Name of the biases of TEAL alone in a table."""


def frontier_of(folder: SweepFolder, board: pd.DataFrame, levels: SweepLevels) -> pd.DataFrame:
    """The position of each trial of a sweep with measured levels on the frontier, one row per trial.

    Returns:
        Columns ``sparsity``, ``weights_skipped`` (of all linear layers of the decoder), ``levels``, ``biases``,
        ``seed`` and ``predicted_kl_nats`` (TEAL alone, by the curves). ``kl_of_uniform`` (KL over that of TEAL at equal
        levels, paired), ``kl_nats`` and ``ppl`` each have ``_low`` and ``_high`` too. Rows are sorted by sparsity, then
        in the order of the space.
    """
    predicted = {(plan.method, plan.sparsity): plan.predicted_kl_nats for plan in levels.plans}
    keys = list(zip(board["level_method"], board["sparsity"], strict=True))
    frontier = pd.DataFrame(
        {
            "sparsity": board["sparsity"],
            "weights_skipped": board["sparsity"] * levels.planned_share,
            "levels": board["level_method"],
            "biases": board["allocation"].where(board["allocation"] != BASELINE, _NONE),
            "seed": board["seed"],
            "predicted_kl_nats": pd.Series([predicted[key] for key in keys], dtype=float),
            **_of_uniform(folder, board),
            **{name: board[name] for of in ("kl_nats", "ppl") for name in (of, f"{of}_low", f"{of}_high")},
        }
    )
    order = {method: place for place, method in enumerate(dict.fromkeys(plan.method for plan in levels.plans))}
    ranked = frontier.assign(place=frontier["levels"].map(order), biased=frontier["biases"] != _NONE)
    ranked = ranked.sort_values(["sparsity", "place", "biased"], kind="stable", ignore_index=True)
    return ranked.drop(columns=["place", "biased"])


def _of_uniform(folder: SweepFolder, board: pd.DataFrame) -> dict[str, list[float]]:
    """KL of each trial over that of TEAL at equal levels on the same text, with intervals. nan without the latter."""
    split, found = board["split"].iloc[0], {trial.path.name: trial for trial in folder.trials}
    scores = [read_checkpoint(found[name].checkpoint_path).scores for name in board["trial"]]
    uniform = {
        row["sparsity"]: own[f"{split}.teal"]
        for own, (_, row) in zip(scores, board.iterrows(), strict=True)
        if row["level_method"] == "uniform"
    }
    ratios = []
    for own, sparsity in zip(scores, board["sparsity"], strict=True):
        ratio = Interval(np.nan, np.nan, np.nan)
        if sparsity in uniform:
            models = {"own": own[f"{split}.spon"], "uniform": uniform[sparsity]}
            ratio = paired_bootstrap(models, {"of": lambda m: m["own"].kl / m["uniform"].kl})["of"]
        ratios.append(ratio)
    name = "kl_of_uniform"
    columns = zip((name, f"{name}_low", f"{name}_high"), zip(*ratios, strict=True), strict=True)
    return {column: list(values) for column, values in columns}


def as_text(frontier: pd.DataFrame, board: pd.DataFrame) -> str:
    """The frontier as a table for a terminal, with a key."""
    first = board.iloc[0]
    cells = pd.DataFrame(
        {
            "weights skipped": [f"{100 * share:.0f}%" for share in frontier["weights_skipped"]],
            "levels": frontier["levels"],
            "biases": frontier["biases"],
            "predicted KL": ["" if np.isnan(kl) else f"{kl:.3f}" for kl in frontier["predicted_kl_nats"]],
            "KL, nats [95%]": [interval(row, "kl_nats", ".4f") for _, row in frontier.iterrows()],
            "of uniform": [_share(row) for _, row in frontier.iterrows()],
            "PPL [95%]": [interval(row, "ppl", ".2f") for _, row in frontier.iterrows()],
        }
    )
    key = (
        f"[95%]: over {first['split']} {first['bootstrap_over']}; KL: KL(dense || sparse); "
        f"dense PPL {first['dense_ppl']:.2f}\n"
        "predicted: TEAL alone, by the Fisher curves; of uniform: of TEAL's KL at equal levels"
    )
    return f"{cells.to_string(index=False)}\n{key}"


def _share(row: pd.Series) -> str:
    value, low, high = (100 * row[f"kl_of_uniform{end}"] for end in ("", "_low", "_high"))
    return "" if np.isnan(value) else f"{value:.0f}%" if low == high else f"{value:.0f}% [{low:.0f}, {high:.0f}]"


def frontier_figure(frontier: pd.DataFrame, dense_ppl: float) -> Figure:
    """KL and perplexity against the share of weights skipped, with intervals, one line per (levels, biases)."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name, unit in ((axes[0], "kl_nats", "KL(dense || sparse), nats"), (axes[1], "ppl", "perplexity")):
        for (method, biases), rows in frontier.groupby(["levels", "biases"], sort=False):
            label = f"{method}, {'TEAL alone' if biases == _NONE else biases}"
            spread = [rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]]
            axis.errorbar(100 * rows["weights_skipped"], rows[name], yerr=spread, marker="o", capsize=3, label=label)
        axis.set(xlabel="weights that need not be read, %", ylabel=unit, yscale="log")
        axis.set_xticks(sorted(set(100 * frontier["weights_skipped"])))
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks("{x:g}")
    axes[1].axhline(dense_ppl, linestyle="--", color="grey", label="dense")
    axes[1].legend(fontsize=8)
    return figure


def levels_figure(plans: Sequence[PlanLevels]) -> Figure:
    """Heat maps of levels, layer by module, one per plan that is not uniform."""
    shown = [plan for plan in plans if plan.method != "uniform"]
    figure = Figure(figsize=(2.6 * len(shown) + 1, 5), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, plan in zip(axes, shown, strict=True):
        sites = [Site.parse(site) for site in plan.levels]
        modules = [module for module in MODULES if module in {site.module for site in sites}]
        picture = np.full((max(site.layer for site in sites) + 1, len(modules)), np.nan)
        for site, level in zip(sites, plan.levels.values(), strict=True):
            picture[site.layer, modules.index(site.module)] = level
        drawn = axis.imshow(picture, aspect="auto", vmin=0, vmax=1, origin="lower", interpolation="nearest")
        names = [module.removesuffix("_proj") for module in modules]
        axis.set_xticks(range(len(modules)), names, rotation=90, fontsize=8)
        axis.set_title(f"{plan.method}, {100 * plan.sparsity:g}%", fontsize=9)
    axes[0].set_ylabel("layer")
    figure.colorbar(drawn, ax=list(axes), label="level: share of the input's entries set to zero")
    return figure


def write_frontier(folder: SweepFolder, board: pd.DataFrame, levels: SweepLevels) -> str:
    """Write the frontier and the levels into the sweep's folder, and return the table."""
    frontier, directory = frontier_of(folder, board, levels), folder.path
    text = as_text(frontier, board)
    (directory / f"{FRONTIER}.txt").write_text(text + "\n")
    frontier.to_csv(directory / f"{FRONTIER}.csv", index=False)
    frontier_figure(frontier, float(board["dense_ppl"].iloc[0])).savefig(directory / f"{FRONTIER}.png", dpi=150)
    levels_figure(levels.plans).savefig(directory / "levels.png", dpi=150)
    return text
