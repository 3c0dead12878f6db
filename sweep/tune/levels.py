"""Measures the levels of a sweep's plans, which spread its sparsity over the sites, before the first trial.

``levels.json`` keeps them. TEAL's greedy levels come from one climb for all sparsities. As many workers as there are
places measure the Fisher curves, each on its share of the blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from search_spaces.base import Config
from search_spaces.config import Level, LevelMethod, PlanConfig, SpaceConfig
from search_spaces.errors import NodeError
from search_spaces.files import read_config, write_config
from search_spaces.levels import cheapest_levels, predicted_kl
from search_spaces.resolve import resolve_plan
from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from sweep.store.folder import SweepFolder
from sweep.terminal.display import say
from sweep.tune.cluster import answer, remotely
from sweep.tune.nodes import places
from trainables.activity import tell
from trainables.curves import LEVELS, Curves, merged
from trainables.greedy import greedy_levels, raises
from trainables.listener import hush_up, speak
from trainables.quiet import hush
from trainables.text.corpus import load_blocks
from trainables.workbench import Materials, Workbench

LEVELS_FILE = "levels.json"
_GREEDY_BLOCKS = 8
_CURVE_BLOCKS = 64
_DRAWS = 2


class PlanLevels(Config):
    """Levels of one plan.

    Attributes:
        method, sparsity: what the space asks for.
        levels: level of every site, in canonical order; zero where it stays dense.
        predicted_kl_nats: sum of the Fisher curves at these levels; None if no curves were measured.
    """

    method: LevelMethod
    sparsity: Level
    levels: dict[str, Level]
    predicted_kl_nats: float | None


class SweepLevels(Config):
    """Content of ``levels.json``.

    Attributes:
        curves: curve of every site, nats a position at each of ``at``; empty if no method needs them.
        at: levels that the curves are measured at.
        positions: number of positions that the curves are means over.
        planned_share: share of the weights of the decoder's linear layers that the sites have.
        plans: one plan for each method and sparsity of the space.
    """

    curves: dict[str, tuple[float, ...]]
    at: tuple[float, ...]
    positions: int
    planned_share: float
    plans: tuple[PlanLevels, ...]


def measured_blocks(space: SpaceConfig, modules: int) -> int:
    """Return how many blocks pass through the model to measure the levels of so many module types.

    A backward pass counts as a forward one.
    """
    counts = {
        "fisher": min(_CURVE_BLOCKS, space.corpus.blocks.calibration) * (1 + _DRAWS),
        "greedy": min(_GREEDY_BLOCKS, space.corpus.blocks.calibration) * raises(max(space.sparsity)) * modules,
        "uniform": 0,
    }
    return sum(counts[method] for method in space.plan.methods)


def read_levels(folder: SweepFolder) -> SweepLevels | None:
    """Read the measured levels of a sweep, if it has any."""
    file = folder.path / LEVELS_FILE
    return read_config(SweepLevels, file, "measured levels must be those that a sweep wrote") if file.exists() else None


def levelled(folder: SweepFolder, materials: Materials) -> list[SpaceConfig]:
    """Return the sweep's space once per method and sparsity, with a level for every site in place of the method."""
    space = folder.space
    if not space.plan.is_measured:
        return [space.model_copy(update={"sparsity": (sparsity,)}) for sparsity in space.sparsity]
    found = read_levels(folder)
    if found is None:
        found = _Measurement(space, materials, folder.ear).all()
        write_config(found, folder.path / LEVELS_FILE)
    single = {plan.sparsity: space.model_copy(update={"sparsity": (plan.sparsity,)}) for plan in found.plans}
    return [_under(single[plan.sparsity], plan.method, plan.levels) for plan in found.plans]


def unmeasured(space: SpaceConfig) -> list[SpaceConfig]:
    """Return the space once per method, with equal levels in place of measured ones, to count its trials."""
    if not space.plan.is_measured:
        return [space]
    return [_under(space, method, {}) for method in space.plan.methods]


def _under(space: SpaceConfig, method: LevelMethod, levels: dict[str, float]) -> SpaceConfig:
    """Return the space with the levels of one method and the allocations that are tried under it."""
    own = {"levels": ("uniform",)} if method == "uniform" else {"levels": levels, "level_method": method}
    tried = tuple(a for a in space.allocations if a.levels is None or method in a.levels)
    return space.model_copy(update={"plan": space.plan.model_copy(update=own), "allocations": tried})


@dataclass(frozen=True)
class _Measurement:
    """Measures the levels of one space. ``ear`` is the name of the actor that hears the workers."""

    space: SpaceConfig
    materials: Materials
    ear: str

    @property
    def plan(self) -> TrialPlan:
        """The plan with a placeholder level for each site."""
        uniform = self.space.plan.model_copy(update={"levels": ("uniform",)})
        return resolve_plan(uniform, self.space.plan.bounds[1], (), self.materials.shape)

    @property
    def _have(self) -> int:
        """Calibration blocks in the text, which may be fewer than the space asks for."""
        return len(load_blocks(self.materials.corpus, "calibration").tokens)

    def all(self) -> SweepLevels:
        """Measure the levels of each method at each sparsity, in the space's order."""
        space = self.space
        shape, sites = self.materials.shape, [Site.parse(text) for text in self.plan.levels]
        shares = np.array(list(shape.shares(sites).values()))
        of_all = shape.shares(shape.sites)
        curves = self._curves() if "fisher" in space.plan.methods else None
        climbed = self._greedy(sites) if "greedy" in space.plan.methods else {}
        plans = []
        for sparsity, method in product(space.sparsity, space.plan.methods):
            levels = np.full(len(sites), sparsity)
            if method == "greedy":
                levels = np.array(list(climbed[sparsity].values()))
            elif method == "fisher":
                assert curves is not None
                levels = cheapest_levels(curves.mean, LEVELS, shares, sparsity, space.plan.bounds).round(6)
            predicted = None if curves is None else predicted_kl(curves.mean, LEVELS, levels)
            named = dict(zip(map(str, sites), levels.tolist(), strict=True))
            plans.append(PlanLevels(method=method, sparsity=sparsity, levels=named, predicted_kl_nats=predicted))
        by_site = {} if curves is None else dict(zip(map(str, sites), curves.mean.tolist(), strict=True))
        return SweepLevels(
            curves={site: tuple(curve) for site, curve in by_site.items()},
            at=LEVELS,
            positions=0 if curves is None else curves.positions,
            planned_share=sum(of_all[site] for site in sites),
            plans=tuple(plans),
        )

    def _curves(self) -> Curves:
        have = self._have
        numbers = [int(n) for n in np.linspace(0, have - 1, min(have, _CURVE_BLOCKS)).round()]  # over the whole text
        parts = min(len(numbers), max(1, places(self.space.resources)))
        say(f"measuring the Fisher curves of {len(self.plan.levels)} sites on {len(numbers)} blocks")
        jobs = [
            (f"curves, part {part + 1}", Workbench.fisher_curves, self.plan, numbers[part::parts], _DRAWS)
            for part in range(parts)
        ]
        return merged(in_workers(self.space, self.ear, jobs))

    def _greedy(self, sites: Sequence[Site]) -> dict[float, dict[str, float]]:
        space, blocks = self.space, min(_GREEDY_BLOCKS, self._have)
        say(f"measuring the greedy levels of {len(sites)} sites on {blocks} blocks")
        ascending, layers = sorted(space.sparsity), sorted({site.layer for site in sites})
        parts = min(len(layers), max(1, places(space.resources)))
        jobs = []
        for part in range(parts):  # layers are optimised independently
            mine = [site for site in sites if site.layer in layers[part::parts]]
            jobs.append((f"greedy levels, part {part + 1}", _greedy, mine, ascending, space.plan, blocks))
        found = in_workers(space, self.ear, jobs)
        return {
            sparsity: {str(site): levels[str(site)] for site in sites for levels in at if str(site) in levels}
            for sparsity, at in zip(ascending, zip(*found, strict=True), strict=True)
        }


def in_workers(space: SpaceConfig, ear: str, jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call functions with a workbench of the space, each in a worker with the resources of a trial.

    ``jobs`` has, for each call, the name to show, the function and its further arguments.
    """
    tell("measuring")
    worker = remotely(space.resources, _in_worker).options(retry_exceptions=[NodeError])
    return [answer(job) for job in [worker.remote(space, ear, *job) for job in jobs]]


def _in_worker(space: SpaceConfig, ear: str, who: str, work: Callable[..., Any], *arguments: Any) -> Any:
    hush()
    torch.set_num_threads(space.resources.cpus_per_trial)
    speak(ear, who)
    try:
        return work(Workbench(space.model, space.corpus, space.resources.device), *arguments)
    finally:
        hush_up()


def _greedy(
    bench: Workbench, sites: Sequence[Site], sparsities: Sequence[float], plan: PlanConfig, blocks: int
) -> list[dict[str, float]]:
    return greedy_levels(bench, sites, sparsities, plan.rule, blocks, plan.bounds)
