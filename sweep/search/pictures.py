"""Pictures of a search, and the tables behind them: the masks it proposed, how fast, and how they trained."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from search_spaces.sites import MODULES, Site
from sweep.search.mask_log import MaskLog
from trainables.checkpoint import Checkpoint

_SMALL = 7  # points
_BEST_AT_LEAST = 5
_MARKERS = "DsP^v<>X*"


def mask_table(log: MaskLog, full: int) -> pd.DataFrame:
    """The masks that were scored on all blocks, those of the last rung, in order of scoring.

    Returns:
        Columns ``name``, ``sites``, ``n_spon_params``, ``kl_nats`` and ``blocks``: blocks spent since the previous
        row, including those on masks that were stopped early.
    """
    rows, spent, before = [], 0, dict[str, int]()
    for record in log.records.values():
        identity = record.trial.identity
        spent += record.blocks - before.get(identity, 0)
        before[identity] = record.blocks
        if record.blocks == full:
            trial = record.trial
            rows.append((trial.allocation, trial.sites, trial.n_spon_params, record.kl_nats, spent))
            spent = 0
    return pd.DataFrame(rows, columns=["name", "sites", "n_spon_params", "kl_nats", "blocks"])


def trained_table(trained: Sequence[Checkpoint], named: Collection[str], log: MaskLog, full: int) -> pd.DataFrame:
    """The results of training.

    Args:
        trained: trials of the first seed.
        named: labels of the space's own allocations.
        log: of the masks on the proxy, empty without one.
        full: blocks of the last rung.

    Returns:
        Columns ``name``, ``kind`` (named or searched), ``sites``, ``n_spon_params``, ``kl_nats`` and ``ppl`` on
        validation text, ``blocks`` of training and validation, and ``proxy_kl_nats``, NaN without a proxy score.
    """
    scored = {record.trial.sites: record.kl_nats for record in log.on(full)}
    rows = []
    for checkpoint in trained:
        config, metrics, history = checkpoint.meta.config, checkpoint.meta.metrics, checkpoint.meta.history
        size = config.training.batch_size * config.training.gradient_accumulation_steps
        rows.append(
            {
                "name": config.allocation,
                "kind": "named" if config.allocation in named else "searched",
                "sites": config.sites,
                "n_spon_params": config.n_spon_params,
                "kl_nats": metrics["val_kl_nats"],
                "ppl": metrics["val_ppl"],
                "blocks": int(history[-1]["step"]) * size + len(history) * config.corpus.blocks.validation,
                "proxy_kl_nats": scored.get(config.sites, float("nan")),
            }
        )
    return pd.DataFrame(rows)


def expected_best(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact expected minimum of n values drawn without replacement, for n = 1 to all of them.

    Args:
        values: of shape (n_values,), in any order.

    Returns:
        Array of shape (n_values,). The first is the mean, the last the minimum.
    """
    total, ranks = len(values), np.arange(len(values))
    gaps = np.diff(np.sort(values), prepend=0.0)
    beyond, expected = np.ones(total), np.empty(total)
    for drawn in range(total):
        beyond *= np.clip(total - drawn - ranks, 0, None) / (total - drawn)  # chance of missing the `rank` smallest
        expected[drawn] = gaps @ beyond
    return expected


def mask_arrays(masks: pd.DataFrame, num_layers: int) -> dict[str, NDArray[np.bool_]]:
    """Which sites each mask chooses, one array per module type that occurs, in the order of the forward pass.

    Returns:
        Arrays of shape (n_masks, num_layers). Rows are sorted by score, best first.
    """
    rows = [[Site.parse(site) for site in sites] for sites in masks.sort_values("kl_nats", kind="stable")["sites"]]
    occurring = {site.module for sites in rows for site in sites}
    arrays: dict[str, NDArray[np.bool_]] = {
        module: np.zeros((len(rows), num_layers), dtype=np.bool_) for module in MODULES if module in occurring
    }
    for row, sites in enumerate(rows):
        for site in sites:
            arrays[site.module][row, site.layer] = True
    return arrays


def pareto_figure(trained: pd.DataFrame) -> Figure:
    """Validation KL and perplexity against the number of learned parameters, with the Pareto front of each."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    axes = figure.subplots(1, 2)
    scores = {"kl_nats": "validation KL, nats per token", "ppl": "validation perplexity"}
    for axis, (score, label) in zip(axes, scores.items(), strict=True):
        rows = trained.sort_values(["n_spon_params", score])
        best = rows[score].cummin()
        axis.step(rows["n_spon_params"], best, where="post", color="grey", linewidth=1, label="Pareto front")
        _points(axis, trained, "n_spon_params", score)
        axis.set(xlabel="SPON parameters", ylabel=label)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=_SMALL + 1)
    return figure


def proxy_figure(trained: pd.DataFrame) -> Figure:
    """KL on the proxy against KL after training, for the masks that have both."""
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axis = figure.subplots()
    _points(axis, trained[trained["proxy_kl_nats"].notna()], "kl_nats", "proxy_kl_nats")
    axis.set(xlabel="validation KL after training, nats per token", ylabel="KL on the proxy, nats per token")
    figure.legend(loc="outside right upper", fontsize=_SMALL + 1)
    return figure


def _points(axis: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Plot the searched masks as one series, and each named allocation as its own."""
    searched = rows[rows["kind"] == "searched"]
    axis.plot(searched[x], searched[y], "o", color="C0", alpha=0.8, markersize=5, label="searched")
    named = rows[rows["kind"] == "named"]
    for place, (_, row) in enumerate(named.iterrows()):
        marker, colour = _MARKERS[place % len(_MARKERS)], f"C{1 + place % 9}"
        axis.plot([row[x]], [row[y]], marker, color=colour, markersize=7, label=row["name"])
    axis.margins(0.08)


def mask_figure(masks: pd.DataFrame, num_layers: int, most: int = 60) -> Figure:
    """At most ``most`` of the best masks, one per row with the best on top. Filled sites carry a bias."""
    arrays, scores = mask_arrays(masks, num_layers), np.sort(masks["kl_nats"])[:most]
    size = (1.5 + len(arrays) * max(2.5, 0.16 * num_layers), 1.3 + 0.15 * len(scores))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(arrays), sharey=True, squeeze=False)
    for axis, (module, chosen) in zip(grid[0], arrays.items(), strict=True):
        axis.imshow(chosen[:most], aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1.3)
        axis.set(title=module, xlabel="layer")
        axis.set_xticks(np.arange(num_layers + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(scores) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="lightgrey", linewidth=0.4)
        axis.tick_params(which="minor", length=0)
    grid[0][0].set_yticks(range(len(scores)), [f"{score:.5f}" for score in scores], fontsize=_SMALL)
    grid[0][0].set_ylabel("KL, nats per token")
    figure.suptitle(f"the {len(scores)} best of {len(masks)} masks; filled: carries a bias")
    return figure


def chosen_figure(masks: pd.DataFrame, num_layers: int, share: float = 0.1) -> Figure:
    """How often the best share of the masks (at least five) chooses each layer, beside how often all masks do."""
    arrays, best = mask_arrays(masks, num_layers), min(len(masks), max(_BEST_AT_LEAST, round(share * len(masks))))
    size, edges = (max(5.0, 0.28 * num_layers), 1 + 1.8 * len(arrays)), np.arange(num_layers + 1) - 0.5
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(arrays), 1, sharex=True, squeeze=False)
    for axis, (module, chosen) in zip(grid[:, 0], arrays.items(), strict=True):
        axis.bar(range(num_layers), chosen[:best].mean(axis=0), label=f"the {best} best masks")
        axis.stairs(chosen.mean(axis=0), edges, color="black", linestyle="--", label=f"all {len(masks)} masks")
        axis.set(ylabel=f"{module}\nfraction of masks", ylim=(0, 1.02), xlim=(-0.7, num_layers - 0.3))
    grid[-1, 0].set_xlabel("layer")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def progress_figure(masks: pd.DataFrame, reference: pd.DataFrame) -> Figure:
    """The best KL so far against the forward blocks spent, and the expected best of random masks with as many."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    axis.step(masks["blocks"].cumsum(), masks["kl_nats"].cummin(), where="post", label="search")
    if not reference.empty:
        spent = reference["blocks"].mean() * np.arange(1, len(reference) + 1)
        expected = expected_best(reference["kl_nats"].to_numpy(np.float64))
        axis.plot(spent, expected, "--", color="grey", label="random masks, expected")
    axis.set(xlabel="forward blocks spent", ylabel="best KL so far, nats per token")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def write_pictures(
    directory: Path, masks: pd.DataFrame, reference: pd.DataFrame, trained: pd.DataFrame, num_layers: int
) -> list[Path]:
    """Write every picture with something to show as PNG, and return the files.

    Args:
        directory: to write into.
        masks: from ``mask_table``, or the masks of ``trained_table`` in a search without proxy.
        reference: random masks, from ``mask_table``.
        trained: from ``trained_table``.
        num_layers: of the model.
    """
    figures: dict[str, Figure] = {}
    if not trained.empty:
        figures["pareto"] = pareto_figure(trained)
    if not masks.empty and masks["sites"].map(len).any():
        figures["masks"] = mask_figure(masks, num_layers)
        figures["layers"] = chosen_figure(masks, num_layers)
        figures["progress"] = progress_figure(masks, reference)
    if not trained.empty and trained["proxy_kl_nats"].notna().any():
        figures["proxy"] = proxy_figure(trained)
    files = {directory / f"search_{name}.png": figure for name, figure in figures.items()}
    for file, figure in files.items():
        figure.savefig(file, dpi=150)
    return list(files)
