"""What must be measured before it can be run: layers ranked by a figure of the model, and TEAL's greedy levels.

The figures are those of the study (gradient, CORNERSTONE, CRITICAL-ONLY, SHAPLEY-GUIDED), each under the plan, the
sparsity and the training of the sweep, on validation text; the gradient on calibration text. They are kept in
``importance.json``.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch

from search_spaces.allocations import measured_name
from search_spaces.comparison import trials_like
from search_spaces.files import write_whole
from search_spaces.ranking import above_threshold, elbow, top_k
from search_spaces.resolve import Fingerprints, resolve_grid, resolve_plan, resolve_trial
from search_spaces.schema import AllocationConfig, SpaceConfig, TrialConfig
from search_spaces.search import allocation_of
from search_spaces.sites import ModelShape, Module, Site
from sweep.cluster import remotely
from sweep.display import say
from sweep.folder import SweepFolder
from sweep.search.ledger import Ledger
from sweep.search.mask_log import MaskLog
from sweep.search.proposals import ScoredMasks, score_masks
from sweep.tuner import run_trials
from trainables.activity import tell
from trainables.checkpoint import read_checkpoint
from trainables.importance import Importance, by_gradient, leave_one_out, shapley
from trainables.levels import greedy_levels
from trainables.listener import hush_up, speak
from trainables.quiet import hush
from trainables.workbench import Workbench

SHAPLEY_PAIRS = 2
"""Orders in which layers join, each used in both directions: 4 x (layers - 1) masks."""
_GRADIENT_BLOCKS = 16
_GREEDY_BLOCKS = 8
_UNIFORM = {"within_layer": "uniform"}


def without_measured(space: SpaceConfig) -> SpaceConfig:
    """The space without what must be measured first: its own allocations, at uniform levels."""
    known = tuple(allocation for allocation in space.allocations if not allocation.is_measured)
    return space.model_copy(update={"allocations": known, "plan": space.plan.model_copy(update=_UNIFORM)})


@dataclass(frozen=True)
class Measurement:
    """Measures layers for the allocations of one sweep.

    Attributes:
        folder: of the sweep.
        shape, fingerprints: of model and text.
        tracking_uri: of MLflow.
    """

    folder: SweepFolder
    shape: ModelShape
    fingerprints: Fingerprints
    tracking_uri: str

    def spaces(self) -> list[SpaceConfig]:
        """The sweep's space with layers and levels in place of what is measured; one a sparsity, as these depend on it.

        Raises:
            Interrupted: if it was stopped.
            SponError: if a figure does not choose any layer, or has no elbow.
        """
        space = self.folder.space
        if without_measured(space) == space:
            return [space]
        single = [space.model_copy(update={"sparsity": (sparsity,)}) for sparsity in space.sparsity]
        return [self._with_layers(self._with_levels(one)) for one in single]

    def _with_levels(self, space: SpaceConfig) -> SpaceConfig:
        """The space with the levels that the greedy optimisation gives, if it is to."""
        if space.plan.within_layer == "uniform":
            return space
        (sparsity,) = space.sparsity
        uniform = space.plan.model_copy(update=_UNIFORM)
        sites = [Site.parse(site) for site in resolve_plan(uniform, sparsity, (), self.shape).levels]
        key = f"greedy {sparsity:g} {space.plan.rule} {self.fingerprints.model} {self.fingerprints.corpus}"

        def measure() -> dict[str, Any]:
            say(f"measuring greedy levels of {len(sites)} sites at {sparsity:g}")
            return {"value": self._remotely(_levels, "greedy levels", space, sites, sparsity)}

        levels = self._known(key, measure)["value"]
        return space.model_copy(update={"plan": uniform.model_copy(update={"levels": levels})})

    def _known(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What stands in ``importance.json`` under a key, measured if nothing does."""
        file = self.folder.path / "importance.json"
        known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        if key not in known:
            known[key] = measure()
            write_whole(file, json.dumps(known, indent=1))
        return known[key]

    def _remotely(self, work: Callable[..., Any], who: str, *arguments: Any) -> Any:
        """Call a function in a worker that has what a trial has, and is shown by this name."""
        resources = self.folder.space.resources
        tell("measuring")
        given = self.folder.ear, who, resources.cpus_per_trial, work, arguments
        return ray.get(remotely(resources, _in_worker).remote(*given))

    def _with_layers(self, space: SpaceConfig) -> SpaceConfig:
        """The space with the layers that the measured figures choose."""
        chosen = []
        for allocation in space.allocations:
            if allocation.is_measured:
                layers = self._choose(allocation, self._figures(space, allocation))
                say(f"{allocation.label} at {space.sparsity[0]:g}: layers {', '.join(map(str, layers))}")
                allocation = allocation.model_copy(update={"layers": layers})
            chosen.append(allocation)
        return space.model_copy(update={"allocations": tuple(chosen)})

    def _choose(self, allocation: AllocationConfig, figures: dict[int, float]) -> tuple[int, ...]:
        named = measured_name(allocation.name)
        assert named is not None
        if allocation.above is not None:
            return above_threshold(figures, allocation.above)
        return top_k(figures, max(1, self.shape.num_layers * named[1] // 100)) if named[1] else elbow(figures)

    def _figures(self, space: SpaceConfig, allocation: AllocationConfig) -> dict[int, float]:
        """The figure of each layer, under the space's one sparsity."""
        method = allocation.name.rstrip("-0123456789")
        modules: tuple[Module, ...] = allocation.modules or ("down_proj",)
        every = (Site(layer, module) for layer in range(self.shape.num_layers) for module in modules)
        sites = self.shape.check(every, f"allocations.{allocation.label}")
        everywhere = allocation_of(without_measured(space), sites, self.shape)
        full = resolve_trial(space, everywhere, space.sparsity[0], space.seeds[0], self.shape, self.fingerprints)

        def measure() -> dict[str, Any]:
            say(f"measuring {method} of {self.shape.num_layers} layers at {space.sparsity[0]:g}")
            players = [frozenset(Site(layer, m) for m in modules) for layer in range(self.shape.num_layers)]
            found = asdict(self._measure(space, method, full, players))
            return {"plan": full.plan.label, **{key: found[key] for key in ("value", "standard_error")}}

        return dict(enumerate(self._known(f"{method} {full.identity}", measure)["value"]))

    def _measure(
        self, space: SpaceConfig, method: str, full: TrialConfig, players: Sequence[frozenset[Site]]
    ) -> Importance:
        if method == "GRADIENT":
            found: Importance = self._remotely(_gradient, "gradients", full, players)
            return found
        if method == "CRITICAL-ONLY":
            return self._trained_alone(space, full, players)
        masks = self._scored_masks(space, full)
        blocks = space.corpus.blocks.validation

        def figure(score: Any) -> Importance:
            if method == "CORNERSTONE":
                return leave_one_out(score, players)
            return shapley(score, players, SHAPLEY_PAIRS, seed=0)

        wanted: dict[frozenset[Site], TrialConfig] = {}

        def note(mask: frozenset[Site]) -> float:
            """Which masks the figure will ask for does not depend on their scores: ask once for nothing."""
            wanted[mask] = trials_like(full, "mask", mask, [full.training.seed], self.shape)[0]
            return 0.0

        figure(note)
        score_masks(self.folder, f"measure-{method}-{full.identity}", masks, list(wanted.values()), blocks)
        return figure(lambda mask: masks.log.records[wanted[mask].identity, blocks].kl_nats)

    def _scored_masks(self, space: SpaceConfig, full: TrialConfig) -> ScoredMasks:
        """The proxy whose shared biases are those of ``full``, which is trained first."""
        self._train(space, f"shared-{full.identity}", [full])
        shared = str(self.folder.trial(full).checkpoint_path.resolve())
        log = MaskLog(self.folder.path / "measured.jsonl")
        return ScoredMasks(log, {full.plan.model_dump_json(): shared}, ("val_kl_nats",))

    def _trained_alone(self, space: SpaceConfig, full: TrialConfig, players: Sequence[frozenset[Site]]) -> Importance:
        """What each layer's bias, trained alone, takes off the KL of TEAL alone."""
        seed = [full.training.seed]
        trials = [trials_like(full, f"only-{layer}", mask, seed, self.shape)[0] for layer, mask in enumerate(players)]
        self._train(space, f"only-{full.identity}", trials)
        metrics = [read_checkpoint(self.folder.trial(t).checkpoint_path).meta.metrics for t in trials]
        value = tuple(m["val_teal_kl_nats"] - m["val_kl_nats"] for m in metrics)
        return Importance(tuple(players), value, (0.0,) * len(players))

    def _train(self, space: SpaceConfig, stage: str, trials: list[TrialConfig]) -> None:
        grid = resolve_grid(without_measured(space), self.shape, self.fingerprints)[0]
        results = {trial.identity for trial in grid}
        for trial in trials:
            if trial.identity not in results:
                self.folder.trial(trial).set_aside(trial)
        missing = Ledger(self.folder).missing(trials)
        if missing:
            run_trials(self.folder, self.shape, missing, self.tracking_uri, stage)


def _in_worker(ear: str, who: str, threads: int, work: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Do some work as a worker does, and be heard."""
    hush()
    torch.set_num_threads(threads)
    speak(ear, who)
    try:
        return work(*arguments)
    finally:
        hush_up()


def _gradient(full: TrialConfig, players: Sequence[frozenset[Site]]) -> Importance:
    bench = Workbench(full.model, full.corpus, full.device)
    return by_gradient(bench, full.plan, players, _GRADIENT_BLOCKS, full.training.form)


def _levels(space: SpaceConfig, sites: Sequence[Site], sparsity: float) -> dict[str, float]:
    bench = Workbench(space.model, space.corpus, space.resources.device)
    return greedy_levels(bench, sites, sparsity, space.plan.rule, min(_GREEDY_BLOCKS, space.corpus.blocks.calibration))
