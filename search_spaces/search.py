"""From an Optuna suggestion to a validated trial: the one step in which what is searched is decided."""

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from search_spaces.allocations import BASELINE
from search_spaces.errors import SponError
from search_spaces.masks import MaskFamily
from search_spaces.resolve import Fingerprints, resolve_allocation, resolve_trial
from search_spaces.schema import AllocationConfig, SpaceConfig, TrainingConfig, TrialConfig
from search_spaces.search_config import Grid, SearchConfig
from search_spaces.sites import ModelShape, Module, Site

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class OutsideSpace(Exception):  # noqa: N818 - no error: a sampler cannot know the constraint before it proposes
    """A suggestion is no trial of the space; the message is one line that says why. A driver prunes it."""


def search_of(space: SpaceConfig) -> SearchConfig:
    """What stands under ``search:``.

    Raises:
        SponError: if nothing does.
    """
    if space.search is None:
        raise SponError(f"a space to search must have a key search, but {space.name} has none (at search)")
    return space.search


def quick(space: SpaceConfig) -> SpaceConfig:
    """A space with the same search on little text and at a small budget, to see it work; its figures mean nothing.

    Raises:
        SponError: if the space has no search.
    """
    search = search_of(space)
    blocks = {
        "calibration": min(space.corpus.blocks.calibration, 4 * space.training.batch_size),
        "validation": min(space.corpus.blocks.validation, 16),
        "test": min(space.corpus.blocks.test, 16),
    }
    few: dict[str, object] = {"n_masks": min(search.n_masks, 16), "stopping": None}
    few |= {"confirm": search.confirm.model_copy(update={"seeds": search.confirm.seeds[:1], "n_random": 1})}
    if search.proxy is not None:
        smaller = {"rungs": (min(8, blocks["validation"]),), "n_train": 1, "n_reference": 8}
        few |= {"proxy": search.proxy.model_copy(update=smaller)}
    changes = {
        "name": f"{space.name}-quick",
        "corpus": space.corpus.model_copy(update={"blocks": space.corpus.blocks.model_copy(update=blocks)}),
        "search": search.model_copy(update=few),
    }
    return space.model_copy(update=changes)


def plans_of(space: SpaceConfig) -> tuple[tuple[Module, ...], ...]:
    """The module types that may be sparsified together; of a ``matched`` plan, those of the masks."""
    search = search_of(space)
    fixed = search.masks.modules if space.plan.modules == "matched" else space.plan.modules
    return search.plan_modules or (fixed,)


def family_of(space: SpaceConfig, plan: tuple[Module, ...]) -> MaskFamily:
    """The family of masks under a plan: of the plan's modules where the plan is a choice."""
    search = search_of(space)
    if search.plan_modules is None or space.plan.allow_unsparsified_biases:
        return search.masks
    return search.masks.within(plan)


def _label(plan: tuple[Module, ...]) -> str:
    return "+".join(plan)


def check_search(space: SpaceConfig, shape: ModelShape) -> None:
    """Check all of a search that does not depend on a suggestion, before the first one.

    Raises:
        SponError: if the masks do not fit the model or a plan, or a grid is too large to be tried.
    """
    search = search_of(space)
    size = len(search.sparsity or space.sparsity)
    size *= search.max_steps.high - search.max_steps.low + 1 if search.max_steps else 1
    masks = 0
    for plan in plans_of(space):
        family = family_of(space, plan)
        if not family.modules:
            got = f"{_label(plan)} with masks of {_label(search.masks.modules)}"
            raise SponError(f"a plan must have a module of the masks, but got {got} (at search.plan_modules)")
        sites = [str(site) for unit in family.units(shape) for site in unit]
        planned = space.model_copy(update={"plan": space.plan.model_copy(update={"modules": plan})})
        every = AllocationConfig(name="all-sites-of-the-masks", sites=tuple(sites))
        resolve_trial(planned, every, space.sparsity[0], space.seeds[0], shape, Fingerprints("", ""))
        masks += family.grid_size(shape)
    if isinstance(search.algorithm, Grid) and size * masks > 100 * search.n_masks:
        got = str(size * masks) if size * masks < 10**6 else f"about 10^{len(str(size * masks)) - 1}"
        rule = f"a grid must have at most 100 x n_masks = {100 * search.n_masks} points"
        raise SponError(f"{rule}, but got {got} (at search.algorithm)")


def _suggest_training(search: SearchConfig, training: TrainingConfig, suggestion: "BaseTrial") -> TrainingConfig:
    update: dict[str, Any] = {}
    if search.lr is not None:
        update["lr"] = suggestion.suggest_float("lr", search.lr.low, search.lr.high, log=search.lr.log)
    if search.max_steps is not None:
        update["max_steps"] = suggestion.suggest_int("max_steps", search.max_steps.low, search.max_steps.high)
    return training.model_copy(update=update)


def allocation_of(space: SpaceConfig, sites: tuple[Site, ...], shape: ModelShape) -> AllocationConfig:
    """The space's own allocation of these sites, or one named after them."""
    if not sites:
        return AllocationConfig(name=BASELINE)
    for allocation in space.allocations:
        if resolve_allocation(allocation, shape).sites == sites:
            return allocation
    texts = tuple(str(site) for site in sites)
    return AllocationConfig(name=f"mask-{hashlib.sha256(' '.join(texts).encode()).hexdigest()[:8]}", sites=texts)


def trial_of_suggestion(
    space: SpaceConfig, suggestion: "BaseTrial", shape: ModelShape, fingerprints: Fingerprints
) -> TrialConfig:
    """Turn a suggestion into a validated trial, asking for each parameter as it is needed.

    Args:
        space: with a ``search``.
        suggestion: a trial of Optuna, or what stands for one (``FixedTrial``).
        shape: of the model.
        fingerprints: of model and corpus.

    Returns:
        The trial. Two suggestions of the same mask, plan and training have one identity.

    Raises:
        SponError: if the space does not fit the model (``check_search`` says so earlier).
        OutsideSpace: if the mask breaks the constraint.
    """
    search, plans = search_of(space), plans_of(space)
    labels = {_label(plan): plan for plan in plans}
    plan = labels[suggestion.suggest_categorical("plan", list(labels))] if len(plans) > 1 else plans[0]
    sparsities = search.sparsity or space.sparsity
    sparsity = suggestion.suggest_categorical("sparsity", sparsities) if len(sparsities) > 1 else sparsities[0]
    sites = family_of(space, plan).suggest(suggestion, shape)
    training = _suggest_training(search, space.training, suggestion)
    planned = space.plan.model_copy(update={"modules": plan})
    decided = space.model_copy(update={"training": training, "plan": planned})
    trial = resolve_trial(decided, allocation_of(space, sites, shape), sparsity, space.seeds[0], shape, fingerprints)
    most = search.constraint.max_params
    if most is not None and trial.n_spon_params > most:
        got = f"{trial.allocation} has {trial.n_spon_params}"
        raise OutsideSpace(f"a mask must have n_spon_params <= {most}, but {got} (at search.constraint.max_params)")
    return trial


def named_suggestions(space: SpaceConfig, shape: ModelShape) -> list[dict[str, Any]]:
    """Parameters of the space's own allocations, to be tried first (``Study.enqueue_trial``).

    Each comes under every plan and sparsity that can be suggested, with the training's own values where these are in
    range (the sampler is asked for the rest). What the masks cannot express is left out.
    """
    found = []
    for allocation, plan in product(space.allocations, plans_of(space)):
        mask = family_of(space, plan).params_of(resolve_allocation(allocation, shape).sites, shape)
        if mask is not None:
            found += [{**choice, **mask, **_own(space)} for choice in _choices(space, plan)]
    return [params for place, params in enumerate(found) if params not in found[:place]]


def _choices(space: SpaceConfig, plan: tuple[Module, ...]) -> Iterator[dict[str, Any]]:
    sparsities = search_of(space).sparsity or space.sparsity
    for sparsity in sparsities:
        chosen = {"plan": _label(plan)} if len(plans_of(space)) > 1 else {}
        yield {**chosen, "sparsity": sparsity} if len(sparsities) > 1 else chosen


def _own(space: SpaceConfig) -> dict[str, Any]:
    """Parameters of the training's own values."""
    search, training, own = search_of(space), space.training, dict[str, Any]()
    if search.lr is not None and search.lr.low <= training.lr <= search.lr.high:
        own["lr"] = training.lr
    steps = training.max_steps
    if search.max_steps is not None and steps is not None and search.max_steps.low <= steps <= search.max_steps.high:
        own["max_steps"] = steps
    return own
