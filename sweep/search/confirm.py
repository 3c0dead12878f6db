"""The final comparison of a search: choose on validation, retrain with fresh seeds, open the test split once."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from search_spaces.allocations import BASELINE
from search_spaces.comparison import controls, trials_like
from search_spaces.config import SpaceConfig
from search_spaces.search import search_of
from search_spaces.sites import ModelShape, Site
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder
from sweep.views.board import STATISTICS, pareto_flags
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.scores import Scores, mean_scores
from trainables.selection import Difference, Role, Selected, Selection
from trainables.statistics import TAIL, bootstrap_unit, paired_bootstrap, seed_margin, widened

_RESAMPLES = 10_000  # many, because the tails are thinner than those of one comparison

Groups = Mapping[str, tuple[Role, list[TrialConfig]]]
"""Name of each mask in a final comparison -> its role and trials, one per seed."""


def choose(space: SpaceConfig, trained: Sequence[Checkpoint], named: Sequence[TrialConfig]) -> list[Checkpoint]:
    """Choose the searched masks with the lowest validation KL for the final comparison.

    If the search also minimises parameters, choose from the Pareto front of the two.

    Args:
        space: of the search.
        trained: trials of one plan and seed, including the space's own allocations.
        named: trials of the space's own allocations.

    Returns:
        At most ``confirm.n_chosen`` masks, sorted by KL. If the space's own allocations dominate every searched mask,
        the best searched mask. The report then says that the search did not win.
    """
    known, search = {trial.identity for trial in named}, search_of(space)
    flags = pareto_flags(trained) if search.counts_params else [True] * len(trained)
    ranked = sorted(zip(trained, flags, strict=True), key=lambda pair: pair[0].meta.metrics["val_kl_nats"])
    searched = [(c, front) for c, front in ranked if c.biases and c.meta.config.identity not in known]
    front = [c for c, is_front in searched if is_front] or [c for c, _ in searched[:1]]
    return front[: search.confirm.n_chosen]


def final_groups(
    space: SpaceConfig, chosen: Sequence[Checkpoint], named: Sequence[TrialConfig], shape: ModelShape
) -> Groups:
    """The trials of a final comparison under one plan: chosen masks, the space's own and controls, at every seed.

    ``named`` allocations with a bias outside the plan are left out. Empty if no mask was chosen.
    """
    if not chosen:
        return {}
    confirm = search_of(space).confirm
    like = chosen[0].meta.config
    masks: dict[frozenset[Site], tuple[str, Role]] = {}
    for checkpoint in chosen:
        masks.setdefault(frozenset(checkpoint.biases), (checkpoint.meta.config.allocation, "chosen"))
    for trial in named:
        if trial.allocation != BASELINE and set(trial.sites) <= set(like.plan.levels):
            masks.setdefault(frozenset(map(Site.parse, trial.sites)), (trial.allocation, "named"))
    units = search_of(space).masks.units(shape)
    for checkpoint in chosen:
        for name, sites in controls(units, frozenset(checkpoint.biases), confirm.n_random).items():
            masks.setdefault(frozenset(sites), (name, "control"))
    counted = Counter[str]()  # controls of two chosen masks may have the same name
    groups: dict[str, tuple[Role, list[TrialConfig]]] = {}
    for mask, (name, role) in masks.items():
        counted[name] += 1
        unique = name if counted[name] == 1 else f"{name}.{counted[name]}"
        groups[unique] = role, trials_like(like, unique, mask, confirm.seeds, shape)
    return groups


def compare(space: SpaceConfig, folder: SweepFolder, groups: Groups) -> Selection | None:
    """The selection file of a final comparison after training and testing, without masks that failed.

    None if no mask has finished at all seeds.
    """
    found = {name: runs for name, (_, trials) in groups.items() if (runs := _finished(folder, trials))}
    if not found:
        return None
    by_seed = {name: [run.scores["test.spon"] for run in runs] for name, runs in found.items()}
    tested = {name: mean_scores(scores) for name, scores in by_seed.items()}
    baselines = next(iter(found.values()))[0].scores
    dense, teal = baselines["test.dense"], baselines["test.teal"]
    masks = []
    for name, runs in found.items():
        role, trials = groups[name]
        paths = [str(folder.trial(trial).checkpoint_path.relative_to(folder.path)) for trial in trials]
        models = {"dense": dense, "teal": runs[0].scores["test.teal"], "spon": tested[name]}
        masks.append(_selected(name, role, runs, tuple(paths), models))
    chosen = [mask for mask in masks if mask.role == "chosen"]
    pairs = [(one.name, mask.name) for one in chosen for mask in masks if mask is not one]
    counts_params = search_of(space).counts_params
    tail = TAIL / max(1, 2 * len(pairs))  # each pair is compared in both KL and NLL
    margins = {
        what: seed_margin(np.array([[getattr(one, what) for one in scores] for scores in by_seed.values()]), tail)
        for what in ("kl_nats", "nll_nats")
    }
    return Selection(
        sweep=folder.name,
        plan=next(iter(groups.values()))[1][0].plan_label,
        teal_test_kl_nats=teal.kl_nats,
        teal_test_ppl=teal.ppl,
        dense_test_ppl=dense.ppl,
        confidence=1 - 2 * tail,
        bootstrap_over=bootstrap_unit(teal),
        masks=tuple(masks),
        differences=tuple(_difference(one, other, tested, by_seed, margins, tail) for one, other in pairs),
        best_rival={mask.name: _best_rival(mask, masks, counts_params) for mask in chosen},
    )


def _finished(folder: SweepFolder, trials: Sequence[TrialConfig]) -> list[Checkpoint]:
    """The checkpoints of a mask at all seeds, empty if one has failed."""
    paths = [folder.trial(trial) for trial in trials]
    return [read_checkpoint(t.checkpoint_path) for t in paths] if all(t.state == "finished" for t in paths) else []


def _selected(
    name: str, role: Role, runs: Sequence[Checkpoint], paths: tuple[str, ...], models: Mapping[str, Scores]
) -> Selected:
    """One mask of the comparison, from one checkpoint per seed, their paths, and the test scores of ``dense``, ``teal``
    and ``spon``, the last as the mean over seeds.
    """
    names = ("kl_recovered", "ppl_recovered")
    found = paired_bootstrap(models, {name: STATISTICS[name] for name in names})
    config, scores = runs[0].meta.config, models["spon"]
    return Selected(
        name=name,
        role=role,
        sites=config.sites,
        n_spon_params=config.n_spon_params,
        seeds=tuple(run.meta.config.training.seed for run in runs),
        checkpoints=paths,
        val_kl_nats=sum(run.meta.metrics["val_kl_nats"] for run in runs) / len(runs),
        test_kl_nats=scores.kl_nats,
        test_nll_nats=scores.nll_nats,
        test_ppl=scores.ppl,
        **{f"test_{name}": None if math.isnan(found[name].value) else found[name] for name in names},
    )


def _difference(
    chosen: str,
    against: str,
    tested: Mapping[str, Scores],
    by_seed: Mapping[str, Sequence[Scores]],
    margins: Mapping[str, float],
    tail: float,
) -> Difference:
    """One mask against another. The intervals cover other text and, through ``margins``, other seeds."""
    models = {"chosen": tested[chosen], "against": tested[against]}
    intervals = paired_bootstrap(
        models,
        {"kl": lambda m: m["chosen"].kl - m["against"].kl, "nll": lambda m: m["chosen"].nll - m["against"].nll},
        resamples=_RESAMPLES,
        tail=tail,
    )
    seeds = zip(by_seed[chosen], by_seed[against], strict=True)
    return Difference(
        chosen=chosen,
        against=against,
        kl_nats=widened(intervals["kl"], margins["kl_nats"]),
        nll_nats=widened(intervals["nll"], margins["nll_nats"]),
        kl_nats_by_seed=tuple(one.kl_nats - other.kl_nats for one, other in seeds),
    )


def _best_rival(chosen: Selected, masks: Sequence[Selected], counts_params: bool) -> str | None:
    size: Callable[[Selected], int] = (lambda m: m.n_spon_params) if counts_params else (lambda m: len(m.sites))
    rivals = [m for m in masks if m.role == "named" and size(m) <= size(chosen)]
    return min(rivals, key=lambda m: m.val_kl_nats).name if rivals else None
