"""Resolves a space to its trials: names become sites, and everything open is decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from search_spaces.allocations import BASELINE, MLP, named_allocation
from search_spaces.config import AllocationConfig, PlanConfig, SpaceConfig
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, ModelShape, Module, Site, site_order
from search_spaces.trial import ALGORITHM, TrialConfig, TrialPlan


@dataclass(frozen=True)
class Fingerprints:
    """Content hashes of the model and text of a trial."""

    model: str
    corpus: str


@dataclass(frozen=True)
class Allocated:
    """A resolved allocation: its biased sites, and the module types that a ``matched`` plan sparsifies."""

    sites: tuple[Site, ...]
    modules: tuple[Module, ...]


def only_levels(space: SpaceConfig) -> SpaceConfig:
    """The space ``NAME-levels``, with TEAL alone under the levels of the given space.

    Raises:
        SponError: if the levels are uniform, or the user's own.
    """
    if not space.plan.is_measured:
        raise SponError("levels to find must be fisher or greedy, but the space has none of them (at plan.levels)")
    changes = {"name": f"{space.name}-levels", "allocations": (AllocationConfig(name=BASELINE),), "search": None}
    return space.model_copy(update=changes)


def at_equal_levels(space: SpaceConfig) -> SpaceConfig:
    """The space with equal levels in place of those that must be measured first."""
    if not space.plan.is_measured:
        return space
    return space.model_copy(update={"plan": space.plan.model_copy(update={"levels": ("uniform",)})})


def resolve_allocation(allocation: AllocationConfig, shape: ModelShape) -> Allocated:
    """Turn a named or explicit allocation into sites of this model.

    Raises:
        SponError: if the name is unknown, or a site is out of range, missing or listed twice.
    """
    where = f"allocations.{allocation.label}"
    if allocation.sites is not None:
        sites = shape.check((Site.parse(text) for text in allocation.sites), where)
        return Allocated(sites, tuple(m for m in MODULES if m in {site.module for site in sites}))
    layers: Sequence[int] | None = allocation.layers
    modules = MLP
    if layers is None:
        layers, modules = named_allocation(allocation.name, shape.num_layers, allocation.seed)
    modules = allocation.modules or modules
    sites = shape.check((Site(layer, module) for layer in layers for module in modules), where)
    return Allocated(sites, modules)


def resolve_plan(plan: PlanConfig, sparsity: float, matched: tuple[Module, ...], shape: ModelShape) -> TrialPlan:
    """Decide the sparsity of every site.

    Args:
        plan: as the user wrote it.
        sparsity: the level of every site that ``plan.levels`` does not name.
        matched: the allocation's module types, for ``modules: matched``.
        shape: of the model.

    Raises:
        SponError: if a layer, module or site is not in the model, or ``levels`` names a site outside the plan.
    """
    if plan.is_measured:
        methods = ", ".join(plan.methods)
        raise SponError(f"levels must be measured first, by `python -m sweep run`, but got {methods} (at plan.levels)")
    given = plan.levels if isinstance(plan.levels, dict) else {}
    modules = matched if plan.modules == "matched" else plan.modules
    layers = range(shape.num_layers) if plan.layers is None else plan.layers
    sites = shape.check((Site(layer, module) for layer in layers for module in modules), "plan")
    outside = sorted(set(given) - {str(site) for site in sites})
    if outside:
        raise SponError(f"a level must name a site of the plan, but got {outside[0]} (at plan.levels)")
    levels = {str(site): given.get(str(site), sparsity) for site in sorted(sites, key=site_order)}
    return TrialPlan(
        levels={site: level for site, level in levels.items() if level > 0},
        rule=plan.rule,
        tokens=plan.tokens,
        calibration_blocks=plan.calibration_blocks if plan.rule == "threshold" else 0,
    )


def resolve_trial(
    space: SpaceConfig,
    allocation: AllocationConfig,
    sparsity: float,
    seed: int,
    shape: ModelShape,
    fingerprints: Fingerprints,
) -> TrialConfig:
    """Build one validated trial.

    Raises:
        SponError: as ``resolve_allocation`` and ``resolve_plan``, or if a bias is outside the plan without permission.
    """
    allocated = resolve_allocation(allocation, shape)
    plan = resolve_plan(space.plan, sparsity, allocated.modules, shape)
    outside = [str(site) for site in allocated.sites if str(site) not in plan.levels]
    dense = sparsity == 0 and not plan.levels  # a control without sparsified sites has no plan to be outside of
    chosen = space.plan.level_method is not None  # a site with a measured level of zero keeps its bias
    if outside and not (dense or chosen or space.plan.allow_unsparsified_biases):
        raise SponError(
            f"a biased site must be sparsified unless plan.allow_unsparsified_biases is true, "
            f"but {outside[0]} is not (at allocations.{allocation.label})"
        )
    training = space.training.model_copy(update={"seed": seed})
    n_params = shape.n_params(allocated.sites, training.form)
    return TrialConfig(
        model=space.model,
        model_fingerprint=fingerprints.model,
        corpus=space.corpus,
        corpus_fingerprint=fingerprints.corpus,
        plan=plan,
        sparsity=sparsity,
        level_method=space.plan.level_method or ("uniform" if space.plan.methods else None),
        allocation=allocation.label,
        sites=tuple(str(site) for site in allocated.sites),
        num_layers=shape.num_layers,
        n_spon_params=n_params,
        relative_params=shape.relative_params(n_params),
        training=training,
        device=space.resources.device,
        algorithm=ALGORITHM,
    )


def resolve_grid(
    space: SpaceConfig, shape: ModelShape, fingerprints: Fingerprints
) -> tuple[list[TrialConfig], dict[str, str]]:
    """Every distinct trial of the grid, in the order of the space, and the duplicate allocations.

    Entries that mean the same trial (ADAPTIVE and TOP-75, or BASELINE-TEAL under several seeds) give one trial under
    the first name. The second value maps the name of each duplicate to that of the allocation trained in its place.
    """
    trials: dict[str, TrialConfig] = {}
    others: dict[str, str] = {}
    for sparsity, allocation, seed in product(space.sparsity, space.allocations, space.seeds):
        trial = resolve_trial(space, allocation, sparsity, seed, shape, fingerprints)
        known = trials.setdefault(trial.identity, trial).allocation
        if trial.allocation != known:
            others[trial.allocation] = known
    return list(trials.values()), others


def resolve_space(space: SpaceConfig, shape: ModelShape, fingerprints: Fingerprints) -> list[TrialConfig]:
    """The trials of ``resolve_grid``."""
    return resolve_grid(space, shape, fingerprints)[0]
