"""The board: every finished trial against the dense model and against TEAL alone under the same sparsity plan.

Figures come from the scores in the checkpoints, with 95% paired bootstrap intervals. Nothing is compared across plans.
"""

import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from search_spaces.errors import SponError
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.statistics import Statistic, bootstrap_unit, paired_bootstrap, recovered

EvaluationSplit = Literal["validation", "test"]

STATISTICS: dict[str, Statistic] = {
    "kl_nats": lambda m: m["spon"].kl,
    "kl_minus_teal_nats": lambda m: m["spon"].kl - m["teal"].kl,
    "nll_nats": lambda m: m["spon"].nll,
    "ppl": lambda m: m["spon"].ppl,
    "kl_recovered": lambda m: recovered(m["dense"].kl, m["teal"].kl, m["spon"].kl),
    "ppl_recovered": lambda m: recovered(m["dense"].ppl, m["teal"].ppl, m["spon"].ppl),
    "vs_teal_pct": lambda m: 100 * (m["spon"].ppl / m["teal"].ppl - 1),
    "vs_dense_pct": lambda m: 100 * (m["spon"].ppl / m["dense"].ppl - 1),
    "teal_kl_nats": lambda m: m["teal"].kl,
    "teal_ppl": lambda m: m["teal"].ppl,
    "dense_ppl": lambda m: m["dense"].ppl,
}
"""Columns of the board with an interval each. A bias should bring ``kl_minus_teal_nats`` below zero."""

COLUMNS: dict[str, str] = {
    "trial": "name of the trial and of its folder",
    "plan": "label of the sparsity plan; rows of one plan are compared",
    "plan_title": "the plan in words",
    "level_method": "method that chose the levels; `given` for the user's own",
    "allocation": "which sites have a bias",
    "seed": "order of the training data",
    "sparsity": "mean level, weighted by the weights of the sites, 0 to 1",
    "n_spon_layers": "layers with a bias",
    "n_spon_params": "entries of all biases",
    "relative_params": "`n_spon_params` relative to UNIF-ALL",
    "split": "text of the scores: validation or test",
    "bootstrap_over": "unit that intervals resample: documents or blocks",
    "realised_sparsity": "share of zeros in the inputs on validation text, weighted like `sparsity`, 0 to 1",
    "kl_nats": "KL(dense || this trial), nats per token",
    "kl_minus_teal_nats": "KL minus that of TEAL alone, nats; negative if the biases help",
    "nll_nats": "negative log-likelihood of the text, nats per token",
    "ppl": "perplexity",
    "kl_recovered": "share of TEAL's KL that the biases remove; 1 is all",
    "ppl_recovered": "share of TEAL's perplexity increase that the biases remove; 1 is all",
    "vs_teal_pct": "perplexity against TEAL alone, percent",
    "vs_dense_pct": "perplexity against the dense model, percent",
    "teal_kl_nats": "KL(dense || TEAL alone), nats per token",
    "teal_ppl": "perplexity of TEAL alone",
    "dense_ppl": "perplexity of the dense model",
    "pareto": "whether no trial of the plan has a lower validation KL with as few parameters",
}
"""The meaning and unit of each column. Those of ``STATISTICS`` also have ``NAME_low`` and ``NAME_high``."""


def make_board(folder: SweepFolder, split: EvaluationSplit | None = None) -> pd.DataFrame:
    """One row per finished trial, sorted by sparsity, plan and KL.

    Args:
        folder: of the sweep.
        split: scores to use. The default is test if every finished trial has it, else validation.

    Returns:
        ``COLUMNS``, with the bounds of each interval.

    Raises:
        SponError: if no trial has finished, or one lacks the split.
    """
    checkpoints = [read_checkpoint(trial.checkpoint_path) for trial in folder.results]
    if not checkpoints:
        raise SponError(f"a board needs a finished trial, but {folder.name!r} has none yet (at {folder.path})")
    tested = all("test.spon" in checkpoint.scores for checkpoint in checkpoints)
    chosen: EvaluationSplit = split or ("test" if tested else "validation")
    if chosen == "test" and not tested:
        raise SponError(f"the test split is scored at the end of a sweep, but {folder.name!r} has not reached it yet")
    board = pd.DataFrame([_row(checkpoint, chosen) for checkpoint in checkpoints])
    board["pareto"] = pareto_flags(checkpoints)
    order = ["sparsity", "plan", "kl_nats"]
    return board.sort_values(order, kind="stable", ignore_index=True)


def _row(checkpoint: Checkpoint, split: EvaluationSplit) -> dict[str, object]:
    config = checkpoint.meta.config
    models = {who: checkpoint.scores[f"{split}.{who}"] for who in ("dense", "teal", "spon")}
    row: dict[str, object] = {
        "trial": config.name,
        "plan": config.plan_label,
        "plan_title": plan_title(config),
        "level_method": config.level_method or "given",
        "allocation": config.allocation,
        "seed": config.training.seed,
        "sparsity": config.sparsity,
        "n_spon_layers": len({site.split(".")[0] for site in config.sites}),
        "n_spon_params": config.n_spon_params,
        "relative_params": config.relative_params,
        "split": split,
        "bootstrap_over": bootstrap_unit(models["spon"]),
        "realised_sparsity": checkpoint.meta.metrics["realised_sparsity"],
    }
    for name, interval in paired_bootstrap(models, STATISTICS).items():
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def plan_title(config: TrialConfig) -> str:
    """A trial's plan in words, such as ``down_proj at 50% (threshold)``, or its label if the user set mixed levels."""
    measured = config.level_method in ("greedy", "fisher")
    if len(set(config.plan.levels.values())) != 1 and not measured:
        return config.plan_label
    level = config.sparsity if measured else next(iter(config.plan.levels.values()))
    modules = "all projections" if config.plan_modules == "all" else config.plan_modules
    how = [f"{config.level_method} levels"] if measured else []
    how += [config.plan.rule] if config.plan.tokens == "all" else [config.plan.rule, config.plan.tokens]
    return f"{modules} at {100 * level:g}% ({', '.join(how)})"


def pareto_flags(checkpoints: Sequence[Checkpoint]) -> list[bool]:
    """Whether each trial has the lowest validation KL of its plan among trials with as few or fewer parameters.

    Choices use validation, whatever split the board shows. TEAL alone, with no parameters, always takes part.
    """
    metas = [checkpoint.meta for checkpoint in checkpoints]
    plans = [meta.config.plan.model_dump_json() for meta in metas]
    points = [(p, m.config.n_spon_params, m.metrics["val_kl_nats"]) for p, m in zip(plans, metas, strict=True)]
    teal = {(plan, 0, meta.metrics["val_teal_kl_nats"]) for plan, meta in zip(plans, metas, strict=True)}
    front, lowest = set(), dict[str, float]()
    for plan, n_params, kl in sorted({*points, *teal}):
        if kl < lowest.get(plan, math.inf):
            front.add((plan, n_params, kl))
            lowest[plan] = kl
    return [point in front for point in points]
