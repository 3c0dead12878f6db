"""Turns Optuna suggestions into validated trials."""

import hashlib
from typing import TYPE_CHECKING, Any

from search_spaces.allocations import BASELINE
from search_spaces.config import AllocationConfig, Grid, SearchConfig, SpaceConfig
from search_spaces.errors import SponError
from search_spaces.masks import Ranked
from search_spaces.resolve import Fingerprints, at_equal_levels, resolve_allocation, resolve_trial
from search_spaces.sites import ModelShape, Site
from search_spaces.trial import TrialConfig

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def search_of(space: SpaceConfig) -> SearchConfig:
    """The search of a space. Raises ``SponError`` if it has none."""
    if space.search is None:
        raise SponError(f"a space to search must have a key search, but {space.name} has none (at search)")
    return space.search


def quick(space: SpaceConfig) -> SpaceConfig:
    """The same search on little text with a small budget, to see it work. Its figures mean nothing.

    Raises:
        SponError: if the space has no search.
    """
    search = search_of(space)
    blocks = {
        "calibration": min(space.corpus.blocks.calibration, 2 * space.training.batch_size),
        "validation": min(space.corpus.blocks.validation, 8),
        "test": min(space.corpus.blocks.test, 12),
    }
    few: dict[str, object] = {"n_masks": min(search.n_masks, 12), "stopping": None}
    few |= {"confirm": search.confirm.model_copy(update={"seeds": search.confirm.seeds[:1], "n_random": 1})}
    if search.proxy is not None:
        smaller = {"rungs": (min(8, blocks["validation"]),), "n_train": 1, "n_reference": 4, "least_reliability": 0.0}
        few |= {"proxy": search.proxy.model_copy(update=smaller)}
    changes = {
        "name": f"{space.name}-quick",
        "corpus": space.corpus.model_copy(update={"blocks": space.corpus.blocks.model_copy(update=blocks)}),
        "search": search.model_copy(update=few),
    }
    return space.model_copy(update=changes)


def planned(space: SpaceConfig) -> SpaceConfig:
    """The space with ``matched`` modules of its plan replaced by those of the masks."""
    if space.plan.modules != "matched":
        return space
    return space.model_copy(update={"plan": space.plan.model_copy(update={"modules": search_of(space).masks.modules})})


def asks_for_gains(space: SpaceConfig) -> bool:
    """Whether the masks of the space rank sites by gains that must be measured first."""
    return space.search is not None and isinstance(space.search.masks, Ranked) and space.search.masks.gains is None


def with_gains(space: SpaceConfig, gains: dict[str, float]) -> SpaceConfig:
    """The space with these gains in its ``ranked`` masks."""
    search = search_of(space)
    masks = search.masks.model_copy(update={"gains": gains})
    return space.model_copy(update={"search": search.model_copy(update={"masks": masks})})


def check_search(space: SpaceConfig, shape: ModelShape) -> None:
    """Check everything about a search that does not depend on a suggestion.

    Raises:
        SponError: if the masks do not fit the model or the plan, or a grid is too large to try.
    """
    search = search_of(space)
    sites = [str(site) for unit in search.masks.units(shape) for site in unit]
    every = AllocationConfig(name="all-sites-of-the-masks", sites=tuple(sites))
    resolve_trial(
        planned(at_equal_levels(space)), every, space.sparsity[0], space.seeds[0], shape, Fingerprints("", "")
    )
    size = search.masks.grid_size(shape)
    if isinstance(search.algorithm, Grid) and size > 100 * search.n_masks:
        got = str(size) if size < 10**6 else f"about 10^{len(str(size)) - 1}"
        rule = f"a grid must have at most 100 x n_masks = {100 * search.n_masks} points"
        raise SponError(f"{rule}, but got {got} (at search.algorithm)")


def allocation_of(space: SpaceConfig, sites: tuple[Site, ...], shape: ModelShape) -> AllocationConfig:
    """The space's own allocation of these sites, or one named after their hash."""
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
    """Turn an Optuna suggestion into a validated trial. Suggestions of the same mask have the same identity.

    Raises:
        SponError: if the space does not fit the model (``check_search`` finds that earlier).
    """
    allocation = allocation_of(space, search_of(space).masks.suggest(suggestion, shape), shape)
    return resolve_trial(planned(space), allocation, space.sparsity[0], space.seeds[0], shape, fingerprints)


def named_suggestions(space: SpaceConfig, shape: ModelShape) -> list[dict[str, Any]]:
    """Parameters of the space's own allocations, to try first (``Study.enqueue_trial``).

    Allocations that the family cannot express are left out.
    """
    masks = search_of(space).masks
    given = [masks.params_of(resolve_allocation(allocation, shape).sites, shape) for allocation in space.allocations]
    found = [params for params in given if params is not None]
    return [params for place, params in enumerate(found) if params not in found[:place]]
