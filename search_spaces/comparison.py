"""Trials around a search: the shared biases of its proxy, and the masks to compare its masks with."""

import random
from collections.abc import Iterable, Sequence

from search_spaces.config import AllocationConfig, SpaceConfig
from search_spaces.masks import Unit
from search_spaces.resolve import Fingerprints, resolve_allocation, resolve_trial
from search_spaces.search import allocation_of, planned, search_of
from search_spaces.sites import ModelShape, Site, site_order
from search_spaces.trial import TrialConfig

RANDOM = "random-"
"""Prefix of the names of random masks."""


def shared_trial(space: SpaceConfig, shape: ModelShape, fingerprints: Fingerprints) -> TrialConfig:
    """The trial with a bias at every candidate site. A proxy switches these biases on and off.

    Raises:
        SponError: if the space does not fit the model.
    """
    search = search_of(space)
    epochs = search.proxy.epochs if search.proxy else None
    training = space.training.model_copy(update={"epochs": epochs or space.training.epochs})
    sites = tuple(site for unit in search.masks.units(shape) for site in unit)
    # With the training of the masks it is one of them, and takes its name
    allocation = allocation_of(space, sites, shape)
    if training != space.training:
        allocation = AllocationConfig(name="shared-biases", sites=tuple(str(site) for site in sites))
    decided = planned(space).model_copy(update={"training": training})
    return resolve_trial(decided, allocation, space.sparsity[0], space.seeds[0], shape, fingerprints)


def trials_like(
    like: TrialConfig, name: str, mask: Iterable[Site], seeds: Sequence[int], shape: ModelShape
) -> list[TrialConfig]:
    """The trials of another mask under the plan and training of ``like``, one per seed."""
    sites = tuple(sorted(mask, key=site_order))
    n_params = shape.n_params(sites, like.training.form)
    masked = {
        "allocation": name,
        "sites": tuple(str(site) for site in sites),
        "n_spon_params": n_params,
        "relative_params": shape.relative_params(n_params),
    }
    seeded = [like.training.model_copy(update={"seed": seed}) for seed in seeds]
    return [like.model_copy(update={**masked, "training": training}) for training in seeded]


def reference_masks(space: SpaceConfig, shape: ModelShape, fingerprints: Fingerprints) -> list[TrialConfig]:
    """Masks that span what a search will compare. Its text must be able to tell them apart.

    They are the space's own allocations that fit the family, early, late and inverted controls of the first of them,
    and ``proxy.n_reference`` random suggestions, which an algorithm must also beat. The inverse may be outside the
    family. If the allocation is good, its inverse is the bad end of the scale.
    """
    search, shared = search_of(space), shared_trial(space, shape, fingerprints)
    masks: dict[tuple[Site, ...], str] = {}
    for allocation in space.allocations:
        sites = resolve_allocation(allocation, shape).sites
        if sites and search.masks.params_of(sites, shape) is not None:
            masks.setdefault(sites, allocation.label)
    for first in list(masks)[:1]:
        for name, sites in controls(search.masks.units(shape), frozenset(first), 0).items():
            masks.setdefault(sites, name)
    masks = _with_random(masks, space, shape)
    like = shared.model_copy(update={"training": space.training})
    return [trials_like(like, name, sites, space.seeds[:1], shape)[0] for sites, name in masks.items()]


def _with_random(
    masks: dict[tuple[Site, ...], str], space: SpaceConfig, shape: ModelShape
) -> dict[tuple[Site, ...], str]:
    """Add distinct random suggestions of the family to the masks, fewer if the family has no more."""
    import optuna  # here, because it takes half a second that a space without a search does not need

    search = search_of(space)
    wanted = search.proxy.n_reference if search.proxy else 0
    study, found = optuna.create_study(sampler=optuna.samplers.RandomSampler(search.seed)), dict(masks)
    for _ in range(100 * wanted):
        if len(found) == len(masks) + wanted:
            break
        sites = search.masks.suggest(study.ask(), shape)
        if sites:
            found.setdefault(sites, f"{RANDOM}{len(found) - len(masks)}")
    return found


def controls(units: Sequence[Unit], mask: frozenset[Site], n_random: int, seed: int = 0) -> dict[str, tuple[Site, ...]]:
    """Masks that a searched mask must beat to mean anything: as many units early, late and at random, and its inverse.

    Args:
        units: all units in canonical order. The mask consists of some of them.
        mask: the searched mask.
        n_random: number of distinct random masks, fewer if the family has no more.
        seed: of the random draws.

    Returns:
        Sites by name, without the inverse if it is empty.
    """
    chosen = [place for place, unit in enumerate(units) if set(unit) <= mask]
    k, rng = len(chosen), random.Random(seed)
    drawn: list[list[int]] = []
    for _ in range(100 * n_random):  # a small family may have fewer others
        places = sorted(rng.sample(range(len(units)), k))
        if len(drawn) < n_random and places not in (chosen, *drawn):
            drawn.append(places)
    named = {f"early-{k}": list(range(k)), f"late-{k}": list(range(len(units) - k, len(units)))}
    named |= {f"{RANDOM}{k}-{number}": places for number, places in enumerate(drawn)}
    named["inverted"] = [place for place in range(len(units)) if place not in chosen]
    return {name: tuple(site for p in places for site in units[p]) for name, places in named.items() if places}
