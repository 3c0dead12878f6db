"""Measures allocations before a sweep can run them: layers or sites ranked by a figure of the model.

The figures are those of the study (gradient, CORNERSTONE, CRITICAL-ONLY, SHAPLEY-GUIDED) and the gain, under the plan,
sparsity and training of the sweep. Gradient and gain are measured on calibration text, the others on validation text.
``importance.json`` keeps them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.allocations import parse_allocation
from search_spaces.comparison import trials_like
from search_spaces.config import AllocationConfig, SpaceConfig
from search_spaces.files import write_whole
from search_spaces.ranking import above_threshold, elbow, top_k
from search_spaces.resolve import at_equal_levels, resolve_grid, resolve_trial
from search_spaces.search import allocation_of, asks_for_gains, search_of, with_gains
from search_spaces.sites import ModelShape, Module, Site, site_order
from search_spaces.trial import TrialConfig
from sweep.search.mask_log import MaskLog
from sweep.search.proposals import score_masks
from sweep.search.task import ScoredMasks
from sweep.store import ledger
from sweep.store.folder import SweepFolder
from sweep.terminal.display import say
from sweep.tune.levels import in_workers, levelled
from sweep.tune.tuner import run_trials
from trainables.checkpoint import read_checkpoint
from trainables.importance import Importance, by_gain, by_gradient, leave_one_out, shapley
from trainables.workbench import Materials

SHAPLEY_PAIRS = 2
"""Number of orders in which layers join, each used in both directions: 4 x (layers - 1) masks."""
_GRADIENT_BLOCKS = 16


class NotMeasured(Exception):  # noqa: N818 - not an error: the failed trial is reported itself
    """A figure cannot be measured because a trial that it needs has failed. The message says which."""


def without_ranked(space: SpaceConfig) -> SpaceConfig:
    """The space without allocations that must be measured first."""
    known = tuple(allocation for allocation in space.allocations if not allocation.is_measured)
    return space.model_copy(update={"allocations": known})


def without_measured(space: SpaceConfig) -> SpaceConfig:
    """The space without anything that must be measured first, at uniform levels."""
    return at_equal_levels(without_ranked(space))


@dataclass(frozen=True)
class Measurement:
    """Measures layers or sites for the allocations of one sweep."""

    folder: SweepFolder
    materials: Materials
    tracking_uri: str

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
        return self.materials.shape

    def spaces(self) -> list[SpaceConfig]:
        """The sweep's space with measured layers, sites and levels filled in, one for each of its plans.

        Raises:
            Interrupted: if it was stopped.
            NotMeasured: if a trial failed that the proposals need.
            SponError: if a figure chooses no layer, or has no elbow.
        """
        space = self.folder.space
        if without_measured(space) == space and not asks_for_gains(space):
            return [space]
        return [self._with_chosen(one) for one in levelled(self.folder, self.materials)]

    def _with_chosen(self, space: SpaceConfig) -> SpaceConfig:
        """The space with the layers or sites that the measured figures choose, and the gains that rank masks."""
        allocations = (self._chosen(space, a) if a.is_measured else a for a in space.allocations)
        chosen = space.model_copy(update={"allocations": tuple(filter(None, allocations))})
        if not asks_for_gains(space):
            return chosen
        gain = AllocationConfig(name="GAIN", modules=search_of(space).masks.modules)
        players = self._players(space, gain)
        figures = self._figures(space, gain, players)
        gains = {str(site): figures[place] for place, player in enumerate(players) for site in player}
        return with_gains(chosen, gains)

    def _chosen(self, space: SpaceConfig, allocation: AllocationConfig) -> AllocationConfig | None:
        """The allocation with the layers or sites that its figure chooses. None if the figure cannot be measured."""
        players, where = self._players(space, allocation), f"{allocation.label} at {space.sparsity[0]:g}"
        try:
            taken = _choose(allocation, self._figures(space, allocation, players))
        except NotMeasured as why:
            say(f"{where} is left out: {why}")
            return None
        if not _ranks_sites(allocation):
            say(f"{where}: layers {', '.join(map(str, taken))}")
            return allocation.model_copy(update={"layers": taken})
        sites = tuple(str(site) for place in taken for site in players[place])
        say(f"{where}: {len(sites)} of {len(players)} sites")
        return allocation.model_copy(update={"sites": sites, "modules": None})

    def _players(self, space: SpaceConfig, allocation: AllocationConfig) -> list[frozenset[Site]]:
        """The ranked items in canonical order: the sites of each layer, or single sites."""
        planned = space.plan.modules if _ranks_sites(allocation) and space.plan.modules != "matched" else ("down_proj",)
        modules: tuple[Module, ...] = allocation.modules or planned
        layers = [[Site(layer, module) for module in modules] for layer in range(self.shape.num_layers)]
        sites = self.shape.check((site for layer in layers for site in layer), f"allocations.{allocation.label}")
        return [frozenset({site}) for site in sites] if _ranks_sites(allocation) else [frozenset(s) for s in layers]

    def _figures(
        self, space: SpaceConfig, allocation: AllocationConfig, players: Sequence[frozenset[Site]]
    ) -> dict[int, float]:
        """The figure of each player at the space's one sparsity."""
        method = _method(allocation)
        sites = tuple(sorted(frozenset[Site]().union(*players), key=site_order))
        everywhere = allocation_of(without_measured(space), sites, self.shape)
        full = resolve_trial(
            space, everywhere, space.sparsity[0], space.seeds[0], self.shape, self.materials.fingerprints
        )
        file, key = self.folder.path / "importance.json", f"{method} {full.identity}"
        known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        if key not in known:
            what = "sites" if _ranks_sites(allocation) else "layers"
            say(f"measuring {method} of {len(players)} {what} at {space.sparsity[0]:g}")
            found = self._measure(space, method, full, players)
            known[key] = {"plan": full.plan_label, "value": found.value, "standard_error": found.standard_error}
            write_whole(file, json.dumps(known, indent=1))
        return dict(enumerate(known[key]["value"]))

    def _measure(
        self, space: SpaceConfig, method: str, full: TrialConfig, players: Sequence[frozenset[Site]]
    ) -> Importance:
        if method == "GRADIENT":
            found: Importance
            job: tuple[Any, ...] = ("gradients", by_gradient, full.plan, players, _GRADIENT_BLOCKS, full.training.form)
            (found,) = in_workers(space, self.folder.ear, [job])
            return found
        if method == "CRITICAL-ONLY":
            return self._trained_alone(space, full, players)
        if method == "GAIN":
            biases = read_checkpoint(self._shared(space, full)).biases
            job = ("gains", by_gain, full.plan, biases, _GRADIENT_BLOCKS, full.training.form)
            (found,) = in_workers(space, self.folder.ear, [job])
            return found
        wanted: dict[frozenset[Site], TrialConfig] = {}

        def note(mask: frozenset[Site]) -> float:
            """Collect the masks that the figure asks for. They do not depend on the scores."""
            wanted[mask] = trials_like(full, "mask", mask, [full.training.seed], self.shape)[0]
            return 0.0

        def figure(score: Callable[[frozenset[Site]], float]) -> Importance:
            if method == "CORNERSTONE":
                return leave_one_out(score, players)
            return shapley(score, players, SHAPLEY_PAIRS, seed=0)

        figure(note)
        log, blocks = MaskLog(self.folder.path / "measured.jsonl"), space.corpus.blocks.validation
        masks = ScoredMasks(log, self._shared(space, full), ("val_kl_nats",), (blocks,))
        score_masks(self.folder, f"measure-{method}-{full.identity}", masks, list(wanted.values()))
        return figure(lambda mask: log.records[wanted[mask].identity, blocks].kl_nats)

    def _shared(self, space: SpaceConfig, full: TrialConfig) -> Path:
        """The checkpoint of ``full``, trained if it was not."""
        self._train(space, f"shared-{full.identity}", [full])
        return self.folder.trial(full).checkpoint_path

    def _trained_alone(self, space: SpaceConfig, full: TrialConfig, players: Sequence[frozenset[Site]]) -> Importance:
        """The reduction of TEAL's KL by the bias of each layer, trained alone."""
        seed = [full.training.seed]
        trials = [trials_like(full, f"only-{layer}", mask, seed, self.shape)[0] for layer, mask in enumerate(players)]
        self._train(space, f"only-{full.identity}", trials)
        metrics = [read_checkpoint(self.folder.trial(t).checkpoint_path).meta.metrics for t in trials]
        value = tuple(m["val_teal_kl_nats"] - m["val_kl_nats"] for m in metrics)
        return Importance(tuple(players), value, (0.0,) * len(players))

    def _train(self, space: SpaceConfig, stage: str, trials: list[TrialConfig]) -> None:
        grid = resolve_grid(without_measured(space), self.shape, self.materials.fingerprints)[0]
        results = {trial.identity for trial in grid}
        for trial in trials:
            if trial.identity not in results:
                self.folder.trial(trial).set_aside(trial)
        run_trials(self.folder, self.shape, ledger.missing(self.folder, trials), self.tracking_uri, stage)
        failed = [trial.name for trial in trials if self.folder.trial(trial).state == "failed"]
        if failed:
            raise NotMeasured(f"{', '.join(failed)} must be trained to measure it, but failed")


def _choose(allocation: AllocationConfig, figures: dict[int, float]) -> tuple[int, ...]:
    _, percent = parse_allocation(allocation.name)
    if allocation.above is not None:
        return above_threshold(figures, allocation.above)
    return top_k(figures, max(1, len(figures) * percent // 100)) if percent else elbow(figures)


def _method(allocation: AllocationConfig) -> str:
    return allocation.name.rstrip("-0123456789")


def _ranks_sites(allocation: AllocationConfig) -> bool:
    return _method(allocation) == "GAIN"
