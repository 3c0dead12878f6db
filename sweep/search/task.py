"""The search task: what to search, and how to evaluate a mask: score it on the proxy, or train it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ray import tune

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints
from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.search.mask_log import MaskLog
from sweep.store.folder import SweepFolder
from sweep.store.ledger import adopt
from sweep.store.storage import states_in
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import MaskTrainable

Values = tuple[float, ...]


@dataclass(frozen=True)
class TrainedMasks:
    """Evaluates masks by training them. ``objectives`` are those of the search."""

    folder: SweepFolder
    objectives: tuple[str, ...]
    rungs: ClassVar[tuple[int, ...]] = ()

    def known(self, trial: TrialConfig) -> Values | None:
        """Return the objectives of a trial that was trained before, here or in another sweep."""
        found = adopt(self.folder, trial)
        if found is None:
            return None
        found.include()
        metrics = read_checkpoint(found.checkpoint_path).meta.metrics | {"n_spon_params": float(trial.n_spon_params)}
        return tuple(metrics[name] for name in self.objectives)

    def job(self, trial: TrialConfig) -> dict[str, Any]:
        """Return the config of ``SponTrainable``."""
        return {"name": trial.name, **self.folder.job(trial, self._states)}

    @cached_property
    def _states(self) -> dict[str, list[str]]:
        return states_in(self.folder.tune)


@dataclass(frozen=True)
class ScoredMasks:
    """Evaluates masks on the proxy.

    Attributes:
        log: of the scores.
        shared: folder of the checkpoint of the shared biases, on the driver's disk.
        objectives: of the search.
        rungs: validation blocks of each rung of the proxy.
    """

    log: MaskLog
    shared: Path
    objectives: tuple[str, ...]
    rungs: tuple[int, ...]

    def known(self, trial: TrialConfig) -> Values | None:
        """Return the objectives of a mask that reached the last rung before."""
        record = self.log.records.get((trial.identity, self.rungs[-1]))
        if record is None:
            return None
        values = {"val_kl_nats": record.kl_nats, "n_spon_params": float(trial.n_spon_params)}
        return tuple(values[name] for name in self.objectives)

    def job(self, trial: TrialConfig) -> dict[str, Any]:
        """Return the config of ``MaskTrainable``."""
        name = f"{trial.name}_{'-'.join(map(str, self.rungs))}"
        return {"name": name, "trial": trial.model_dump(mode="json"), "rungs": list(self.rungs)}

    @property
    def trainable(self) -> type[tune.Trainable]:
        """The trainable that scores masks, with the shared biases in Ray's object store."""
        with_shared: type[tune.Trainable] = tune.with_parameters(MaskTrainable, shared=read_checkpoint(self.shared))
        return with_shared


@dataclass(frozen=True)
class Task:
    """What to search, and how to evaluate a mask.

    Attributes:
        space: with a ``search``.
        shape, fingerprints: of the model and the text.
        masks: evaluates a mask.
        counts: file with the counts of the proposals.
    """

    space: SpaceConfig
    shape: ModelShape
    fingerprints: Fingerprints
    masks: TrainedMasks | ScoredMasks
    counts: Path
