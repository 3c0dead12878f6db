"""The study's sweep, computed again from the losses that it stored; nothing is compared across plans unless it says so.

The study stored no run of TEAL alone on ``o_proj``, nor of the dense model. Their perplexities follow from the ratios
that it did store. That they are right can be checked: its losses are sums of bf16 numbers, so that every total is a
whole multiple of some nats, and so must these be.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from analysis.study.compared import Compared
from analysis.study.layout import ParetoEntry, Results, SweepResult
from analysis.study.trials import Trials
from search_spaces.allocations import BASELINE
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.sources import Config

_SAME = 1e-9  # relative; the study's ratios are of fp64 numbers


class Baseline(Config):
    """The dense model, or TEAL alone under a plan.

    Attributes:
        plan: None for the dense model.
        derived: from the study's ratios, since it stored no such run.
        nll_steps: total loss in units of ``Sweep.nll_step_nats``, whole if the perplexity is right; None without one.
    """

    plan: str | None
    ppl: float
    derived: bool
    nll_steps: float | None


class SweepRow(Config):
    """One run of the sweep.

    Attributes:
        vs_teal_pct: perplexity against TEAL alone under the same plan, less is better. vs_dense_pct: against dense.
        recovered: share of TEAL's damage in perplexity that is repaired; the study stored no KL. None for TEAL alone.
    """

    allocation: str
    plan: str
    modules: tuple[str, ...]
    sparsity: float
    layers: int
    params: Compared
    ppl: Compared
    vs_teal_pct: Compared
    vs_dense_pct: Compared
    recovered: float | None


class Dominated(Config):
    """A run that the study's Pareto set lists, and everything better with as few or fewer parameters, in any plan."""

    allocation: str
    ppl: float
    params: int
    by: tuple[str, ...]


class Frontier(Config):
    """Pareto sets at one sparsity; TEAL alone, at no parameters, always takes part.

    Attributes:
        by_plan: the set within each plan.
        pooled: the set over all plans, each with its own TEAL.
        study: the study's set, or None where it gives none.
        dominated: what that lists although something in the pool is better.
    """

    sparsity: float
    by_plan: dict[str, tuple[str, ...]]
    pooled: tuple[str, ...]
    study: tuple[str, ...] | None
    dominated: tuple[Dominated, ...]


class Sweep(Config):
    """The sweep compared.

    Attributes:
        nll_step_nats: largest power of two that divides every stored total loss, or None if they are not whole.
        baselines: the dense model first.
    """

    nll_step_nats: int | None
    baselines: tuple[Baseline, ...]
    rows: tuple[SweepRow, ...]
    frontiers: tuple[Frontier, ...]

    @property
    def dense_ppl(self) -> float:
        """Perplexity of the dense model."""
        return self.baselines[0].ppl

    def teal_ppl(self, plan: str) -> float:
        """Perplexity of TEAL alone under a plan."""
        return next(baseline.ppl for baseline in self.baselines if baseline.plan == plan)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Levels, in the study's order."""
        return tuple(dict.fromkeys(row.sparsity for row in self.rows))

    def best(self) -> tuple[SweepRow, ...]:
        """The run of each plan that recovers most."""
        chosen: dict[str, SweepRow] = {}
        for row in self.rows:
            if row.layers:
                kept = chosen.get(row.plan)
                chosen[row.plan] = row if kept is None or row.ppl.ours < kept.ppl.ours else kept
        return tuple(chosen.values())


def compare_sweep(results: Results, pareto: Sequence[ParetoEntry], trials: Trials) -> Sweep:
    """Compute the sweep table, damage recovered and Pareto sets from the stored losses.

    Raises:
        SponError: if the runs disagree about the perplexity of a baseline.
    """
    runs = list(results.results.values())
    step = nll_step(runs)
    baselines = _baselines(runs, trials, step)
    rows = tuple(_row(run, baselines, trials) for run in runs)
    levels = dict.fromkeys(run.sparsity for run in runs)
    frontiers = tuple(_frontier(level, rows, baselines, [e for e in pareto if e.sparsity == level]) for level in levels)
    return Sweep(nll_step_nats=step, baselines=baselines, rows=rows, frontiers=frontiers)


def nll_step(runs: Iterable[SweepResult]) -> int | None:
    """Largest power of two that divides every total loss in nats; None if one is not whole."""
    totals = [run.loss * run.num_tokens for run in runs]
    if any(abs(total - round(total)) > _SAME * total for total in totals):
        return None
    common = math.gcd(*(round(total) for total in totals))
    return common & -common


def _baselines(runs: Sequence[SweepResult], trials: Trials, step: int | None) -> tuple[Baseline, ...]:
    """The dense model, then TEAL alone under every plan."""
    tokens = runs[0].num_tokens
    dense = _agreed((run.perplexity / run.ppl_vs_dense for run in runs), "the dense model")
    plans: dict[str, list[SweepResult]] = {}
    for run in runs:
        plans.setdefault(trials[run.config_name, run.sparsity].plan_label, []).append(run)
    found: list[tuple[str | None, float, bool]] = [(None, dense, True)]
    for plan, mine in plans.items():
        teal = _agreed((run.perplexity / run.ppl_vs_teal for run in mine), f"TEAL alone under {plan}")
        found.append((plan, teal, all(run.config_name != BASELINE for run in mine)))
    return tuple(
        Baseline(plan=plan, ppl=ppl, derived=derived, nll_steps=math.log(ppl) * tokens / step if step else None)
        for plan, ppl, derived in found
    )


def _agreed(values: Iterable[float], what: str) -> float:
    first, *others = values
    for other in others:
        if not math.isclose(first, other, rel_tol=_SAME):
            raise SponError(f"all runs must have one perplexity of {what}, but got {first} and {other} (at results)")
    return first


def _row(run: SweepResult, baselines: Sequence[Baseline], trials: Trials) -> SweepRow:
    trial, ppl, dense = trials[run.config_name, run.sparsity], math.exp(run.loss), baselines[0].ppl
    teal = next(baseline.ppl for baseline in baselines if baseline.plan == trial.plan_label)
    return SweepRow(
        allocation=run.config_name,
        plan=trial.plan_label,
        modules=tuple(dict.fromkeys(Site.parse(site).module for site in trial.plan.levels)),
        sparsity=run.sparsity,
        layers=run.num_spon_layers,
        params=Compared(study=run.num_spon_params, ours=trial.n_spon_params),
        ppl=Compared(study=run.perplexity, ours=ppl),
        vs_teal_pct=Compared(study=0.0 - run.ppl_improvement, ours=100 * (ppl / teal - 1)),
        vs_dense_pct=Compared(study=100 * (run.ppl_vs_dense - 1), ours=100 * (ppl / dense - 1)),
        recovered=(teal - ppl) / (teal - dense) if trial.sites and teal > dense else None,
    )


Point = tuple[float, int]
"""Perplexity and parameters of a run."""


def _frontier(
    level: float, rows: Sequence[SweepRow], baselines: Sequence[Baseline], listed: Sequence[ParetoEntry]
) -> Frontier:
    plans: dict[str, dict[str, Point]] = {}
    names: dict[str, str] = {}
    for row in rows:
        if row.sparsity == level:
            alone = f"TEAL on {'+'.join(row.modules)}"
            teal = next(baseline.ppl for baseline in baselines if baseline.plan == row.plan)
            points = plans.setdefault(row.plan, {alone: (teal, 0)})
            names[row.allocation] = row.allocation if row.layers else alone
            if row.layers:
                points[row.allocation] = (row.ppl.ours, int(row.params.ours))
    pool = {name: point for points in plans.values() for name, point in points.items()}
    study = tuple(names[entry.config_name] for entry in listed)
    return Frontier(
        sparsity=level,
        by_plan={plan: pareto_set(points) for plan, points in plans.items()},
        pooled=pareto_set(pool),
        study=study or None,
        dominated=tuple(
            Dominated(allocation=name, ppl=pool[name][0], params=pool[name][1], by=beaten)
            for name in study
            if (beaten := better(name, pool))
        ),
    )


def better(name: str, points: Mapping[str, Point]) -> tuple[str, ...]:
    """The points that are as good in both figures as the named one, and better in one."""
    mine = points[name]
    return tuple(other for other, it in points.items() if it != mine and it[0] <= mine[0] and it[1] <= mine[1])


def pareto_set(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The points that no other is better than, the fewest parameters first."""
    kept = [name for name in points if not better(name, points)]
    return tuple(sorted(kept, key=lambda name: (points[name][1], points[name][0])))
