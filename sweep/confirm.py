"""The final comparison of a search: choose on validation, train again with fresh seeds, open the test split once."""

import math
from collections.abc import Mapping, Sequence

from search_spaces.allocations import BASELINE
from search_spaces.comparison import controls, trials_like, units_of
from search_spaces.schema import SpaceConfig, TrialConfig, TrialPlan
from search_spaces.search import search_of
from search_spaces.sites import ModelShape, Site
from sweep.board import STATISTICS, pareto_flags
from sweep.folder import SweepFolder
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.evaluation import Scores, mean_scores
from trainables.selection import Difference, PlanSelection, Role, Selected, Selection
from trainables.statistics import TAIL, Interval, bootstrap_unit, paired_bootstrap

_RESAMPLES = 10_000  # the tails are thinner than those of one comparison

Groups = Mapping[str, tuple[Role, list[TrialConfig]]]
"""The trials of each mask of a final comparison, a trial a seed, by the mask's name."""


def choose(space: SpaceConfig, trained: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The searched masks that go into the final comparison: those on the Pareto front of validation KL and parameters.

    Args:
        space: of the search.
        trained: trials of one plan and seed, the space's own allocations among them; warm starts take no part.

    Returns:
        The best by KL first, at most ``confirm.n_chosen``. If every searched mask is dominated by the space's own
        allocations, the best of them all the same: the report then says that the search did not win.
    """
    named = {allocation.label for allocation in space.allocations}
    fair = [c for c in trained if c.meta.config.warm_start is None]
    ranked = sorted(zip(fair, pareto_flags(fair), strict=True), key=lambda pair: pair[0].meta.metrics["val_kl_nats"])
    searched = [(c, front) for c, front in ranked if c.biases and c.meta.config.allocation not in named]
    front = [c for c, is_front in searched if is_front] or [c for c, _ in searched[:1]]
    return front[: search_of(space).confirm.n_chosen]


def final_groups(
    space: SpaceConfig, chosen: Sequence[Checkpoint], named: Sequence[TrialConfig], shape: ModelShape
) -> Groups:
    """The trials of a final comparison under one plan: chosen masks, the space's own, controls, each at every seed.

    Args:
        space: of the search.
        chosen: from ``choose``.
        named: trials of the space's own allocations; those with a bias outside the plan are left out.
        shape: of the model.
    """
    confirm = search_of(space).confirm
    like = chosen[0].meta.config
    masks: dict[frozenset[Site], tuple[str, Role]] = {}
    for checkpoint in chosen:
        masks.setdefault(frozenset(checkpoint.biases), (checkpoint.meta.config.allocation, "chosen"))
    for trial in named:
        if trial.allocation != BASELINE and set(trial.sites) <= set(like.plan.levels):
            masks.setdefault(frozenset(map(Site.parse, trial.sites)), (trial.allocation, "named"))
    units = units_of(space, like.plan, shape)
    for checkpoint in chosen:
        for name, sites in controls(units, frozenset(checkpoint.biases), confirm.n_random).items():
            masks.setdefault(frozenset(sites), (name, "control"))
    # A control of one chosen mask may have the name of another's
    counted: dict[str, int] = {}
    groups: dict[str, tuple[Role, list[TrialConfig]]] = {}
    for mask, (name, role) in masks.items():
        counted[name] = counted.get(name, 0) + 1
        unique = name if counted[name] == 1 else f"{name}.{counted[name]}"
        groups[unique] = role, trials_like(like, unique, mask, confirm.seeds, shape)
    return groups


def compare(folder: SweepFolder, plans: Sequence[Groups]) -> Selection:
    """The selection file of final comparisons that were trained and tested; masks that failed are left out."""
    compared = (_compare_plan(folder, groups) for groups in plans)
    return Selection(sweep=folder.name, plans=tuple(plan for plan in compared if plan))


def _compare_plan(folder: SweepFolder, groups: Groups) -> PlanSelection | None:
    paths = {name: [folder.trial(t) for t in trials] for name, (_, trials) in groups.items()}
    found = {
        name: [read_checkpoint(trial.checkpoint_path) for trial in trials]
        for name, trials in paths.items()
        if all(trial.state == "finished" for trial in trials)
    }
    if not found:
        return None
    tested = {name: mean_scores([run.scores["test.spon"] for run in runs]) for name, runs in found.items()}
    some = next(iter(found.values()))[0].scores
    dense, teal = some["test.dense"], some["test.teal"]
    masks = []
    for name, runs in found.items():
        config, scores = runs[0].meta.config, tested[name]
        masks.append(
            Selected(
                name=name,
                role=groups[name][0],
                sites=config.sites,
                n_spon_params=config.n_spon_params,
                seeds=tuple(run.meta.config.training.seed for run in runs),
                checkpoints=tuple(str(t.checkpoint_path.relative_to(folder.path)) for t in paths[name]),
                val_kl_nats=_mean([run.meta.metrics["val_kl_nats"] for run in runs]),
                test_kl_nats=scores.kl_nats,
                test_nll_nats=scores.nll_nats,
                test_ppl=scores.ppl,
                **_recoveries({"dense": dense, "teal": teal, "spon": scores}),
            )
        )
    pairs = [(m.name, other.name) for m in masks if m.role == "chosen" for other in masks if other.name != m.name]
    tail = TAIL / max(1, 2 * len(pairs))  # each pair is compared in KL and in NLL
    return PlanSelection(
        plan=_plan(groups).label,
        teal_test_kl_nats=teal.kl_nats,
        teal_test_ppl=teal.ppl,
        dense_test_ppl=dense.ppl,
        confidence=1 - 2 * tail,
        bootstrap_over=bootstrap_unit(teal),
        masks=tuple(masks),
        differences=tuple(_difference(chosen, other, tested, found, tail) for chosen, other in pairs),
        best_rival={m.name: _best_rival(m, masks) for m in masks if m.role == "chosen"},
    )


def _recoveries(models: Mapping[str, Scores]) -> dict[str, Interval | None]:
    names = ("kl_recovered", "ppl_recovered")
    found = paired_bootstrap(models, {name: STATISTICS[name] for name in names})
    return {f"test_{name}": None if math.isnan(found[name].value) else found[name] for name in names}


def _difference(
    chosen: str,
    against: str,
    tested: Mapping[str, Scores],
    found: Mapping[str, list[Checkpoint]],
    tail: float,
) -> Difference:
    models = {"chosen": tested[chosen], "against": tested[against]}
    intervals = paired_bootstrap(
        models,
        {"kl": lambda m: m["chosen"].kl - m["against"].kl, "nll": lambda m: m["chosen"].nll - m["against"].nll},
        resamples=_RESAMPLES,
        tail=tail,
    )
    kl = {name: [run.scores["test.spon"].kl_nats for run in found[name]] for name in (chosen, against)}
    return Difference(
        chosen=chosen,
        against=against,
        kl_nats=intervals["kl"],
        nll_nats=intervals["nll"],
        kl_nats_by_seed=tuple(one - other for one, other in zip(kl[chosen], kl[against], strict=True)),
    )


def _best_rival(chosen: Selected, masks: Sequence[Selected]) -> str | None:
    rivals = [m for m in masks if m.role == "named" and m.n_spon_params <= chosen.n_spon_params]
    return min(rivals, key=lambda m: m.val_kl_nats).name if rivals else None


def _plan(groups: Groups) -> TrialPlan:
    return next(iter(groups.values()))[1][0].plan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
