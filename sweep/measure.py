"""Allocations that are measured: rank the layers by a figure of the model, and take the first of them.

The figures are those of the study (gradient, CORNERSTONE, CRITICAL-ONLY, SHAPLEY-GUIDED), each under the plan, the
sparsity and the training of the sweep, on validation text; the gradient on calibration text. They are kept in
``importance.json``.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch

from search_spaces.allocations import measured_name
from search_spaces.comparison import trials_like
from search_spaces.ranking import above_threshold, elbow, top_k
from search_spaces.resolve import Fingerprints, resolve_grid, resolve_trial
from search_spaces.schema import AllocationConfig, SpaceConfig, TrialConfig
from search_spaces.search import allocation_of
from search_spaces.sites import ModelShape, Module, Site
from sweep.folder import SweepFolder
from sweep.ledger import Ledger
from sweep.mask_log import MaskLog
from sweep.proposals import ScoredMasks, score_masks
from sweep.tuner import run_trials
from trainables.checkpoint import read_checkpoint
from trainables.importance import Importance, by_gradient, leave_one_out, shapley
from trainables.workbench import Workbench

SHAPLEY_PAIRS = 2
"""Orders in which layers join, each used in both directions: 4 x (layers - 1) masks."""
_GRADIENT_BLOCKS = 16


def without_measured(space: SpaceConfig) -> SpaceConfig:
    """The space without the allocations that must be measured first."""
    return space.model_copy(update={"allocations": tuple(a for a in space.allocations if not a.is_measured)})


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
        """The sweep's space with layers in the place of what is measured: one a sparsity, for the layers may differ.

        Raises:
            Interrupted: if it was stopped.
            SponError: if a figure does not choose any layer, or has no elbow.
        """
        space = self.folder.space
        if not any(allocation.is_measured for allocation in space.allocations):
            return [space]
        return [self._measured(space, sparsity) for sparsity in space.sparsity]

    def _measured(self, space: SpaceConfig, sparsity: float) -> SpaceConfig:
        chosen = []
        for allocation in space.allocations:
            if allocation.is_measured:
                layers = self._choose(allocation, self._figures(allocation, sparsity))
                print(f"{allocation.label} at {sparsity:g}: layers {', '.join(map(str, layers))}", flush=True)
                allocation = allocation.model_copy(update={"layers": layers})
            chosen.append(allocation)
        return space.model_copy(update={"allocations": tuple(chosen), "sparsity": (sparsity,)})

    def _choose(self, allocation: AllocationConfig, figures: dict[int, float]) -> tuple[int, ...]:
        named = measured_name(allocation.name)
        assert named is not None
        if allocation.above is not None:
            return above_threshold(figures, allocation.above)
        return top_k(figures, max(1, self.shape.num_layers * named[1] // 100)) if named[1] else elbow(figures)

    def _figures(self, allocation: AllocationConfig, sparsity: float) -> dict[int, float]:
        """The figure of each layer, from ``importance.json`` or measured."""
        method = allocation.name.rstrip("-0123456789")
        modules: tuple[Module, ...] = allocation.modules or ("down_proj",)
        space = self.folder.space
        sites = self.shape.check(
            (Site(layer, m) for layer in range(self.shape.num_layers) for m in modules), "allocations"
        )
        everywhere = allocation_of(without_measured(space), sites, self.shape)
        full = resolve_trial(space, everywhere, sparsity, space.seeds[0], self.shape, self.fingerprints)
        file, key = self.folder.path / "importance.json", f"{method} {full.identity}"
        known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        if key not in known:
            print(f"measuring {method} of {self.shape.num_layers} layers at {sparsity:g}", flush=True)
            players = [frozenset(Site(layer, m) for m in modules) for layer in range(self.shape.num_layers)]
            found = self._measure(method, full, players)
            known[key] = {"method": method, "plan": full.plan.label} | {
                name: value for name, value in asdict(found).items() if name != "players"
            }
            file.write_text(json.dumps(known, indent=1))
        return dict(enumerate(known[key]["value"]))

    def _measure(self, method: str, full: TrialConfig, players: Sequence[frozenset[Site]]) -> Importance:
        if method == "GRADIENT":
            remote = ray.remote(num_cpus=self._cpus, num_gpus=self.folder.space.resources.gpus_per_trial)
            found: Importance = ray.get(remote(_gradient).remote(full, players, self._cpus))
            return found
        if method == "CRITICAL-ONLY":
            return self._trained_alone(full, players)
        masks = self._scored_masks(full)
        blocks = self.folder.space.corpus.blocks.validation

        def figure(score: Any) -> Importance:
            return (
                leave_one_out(score, players) if method == "CORNERSTONE" else shapley(score, players, SHAPLEY_PAIRS, 0)
            )

        wanted: dict[frozenset[Site], TrialConfig] = {}

        def note(mask: frozenset[Site]) -> float:
            """Which masks the figure will ask for does not depend on their scores: ask once for nothing."""
            wanted[mask] = trials_like(full, "mask", mask, [full.training.seed], self.shape)[0]
            return 0.0

        figure(note)
        score_masks(self.folder, f"measure-{method}-{full.identity}", masks, list(wanted.values()), blocks)
        return figure(lambda mask: masks.log.records[wanted[mask].identity, blocks].kl_nats)

    @property
    def _cpus(self) -> int:
        return self.folder.space.resources.cpus_per_trial

    def _scored_masks(self, full: TrialConfig) -> ScoredMasks:
        """The proxy whose shared biases are those of ``full``, which is trained first."""
        self._train(f"shared-{full.identity}", [full])
        shared = str(self.folder.trial(full).checkpoint_path.resolve())
        log = MaskLog(self.folder.path / "measured.jsonl")
        return ScoredMasks(log, {full.plan.model_dump_json(): shared}, ("val_kl_nats",))

    def _trained_alone(self, full: TrialConfig, players: Sequence[frozenset[Site]]) -> Importance:
        """What each layer's bias, trained alone, takes off the KL of TEAL alone."""
        seed = [full.training.seed]
        trials = [trials_like(full, f"only-{layer}", mask, seed, self.shape)[0] for layer, mask in enumerate(players)]
        self._train(f"only-{full.identity}", trials)
        metrics = [read_checkpoint(self.folder.trial(t).checkpoint_path).meta.metrics for t in trials]
        value = tuple(m["val_teal_kl_nats"] - m["val_kl_nats"] for m in metrics)
        return Importance(tuple(players), value, (0.0,) * len(players))

    def _train(self, stage: str, trials: list[TrialConfig]) -> None:
        grid = resolve_grid(without_measured(self.folder.space), self.shape, self.fingerprints)[0]
        results = {trial.identity for trial in grid}
        for trial in trials:
            if trial.identity not in results:
                self.folder.trial(trial).set_aside(trial)
        missing = Ledger(self.folder).missing(trials)
        if missing:
            run_trials(self.folder, missing, self.tracking_uri, stage)


def _gradient(full: TrialConfig, players: Sequence[frozenset[Site]], threads: int) -> Importance:
    """In a worker."""
    torch.set_num_threads(threads)
    bench = Workbench(full.model, full.corpus, full.device)
    return by_gradient(bench, full.plan, players, _GRADIENT_BLOCKS, full.training.form)
