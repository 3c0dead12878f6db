"""Spaces of a model of eight layers, which is only a shape, and scores and checkpoints as if it had been trained."""

from collections.abc import Mapping, Sequence

import torch
from optuna.trial import FixedTrial

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.search import trial_of_suggestion
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from tests.search_spaces.conftest import make_shape
from trainables.checkpoint import Checkpoint, CheckpointMeta
from trainables.scores import Scores

SHAPE, PRINTS = make_shape(8), Fingerprints("m", "c")


def space_of(*allocations: object, search: Mapping[str, object] | None = None, **keys: object) -> SpaceConfig:
    """A grid, or a search over subsets of layers with these keys."""
    raw = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": allocations or ["UNIF-ALL"]}
    searched = {} if search is None else {"search": {"masks": {"family": "subset"}, **search}}
    return SpaceConfig.model_validate(raw | searched | keys)


def trials_of(*allocations: object) -> list[TrialConfig]:
    return resolve_space(space_of(*allocations), SHAPE, PRINTS)


def mask_of(*layers: int, space: SpaceConfig | None = None) -> TrialConfig:
    """The trial of a mask of a search."""
    bits = {f"{layer:02d}.down_proj": layer in layers for layer in range(8)}
    return trial_of_suggestion(space or space_of(search={}), FixedTrial(bits), SHAPE, PRINTS)


def scores_of(kl: Sequence[float]) -> Scores:
    """Scores with this KL a position in each block, each a document of its own; NLL is 2 nats above."""
    sums = torch.tensor(kl, dtype=torch.float64)
    ones = torch.ones_like(sums)
    return Scores(sums + 2, sums, ones, ones, sums + 2, sums, ones, ones)


def checkpoint_of(
    trial: TrialConfig,
    metrics: Mapping[str, float],
    scores: Mapping[str, Scores] | None = None,
    seconds: Sequence[float] = (),
) -> Checkpoint:
    """A checkpoint as if the trial had been trained, with a validation for each of ``seconds``."""
    meta = CheckpointMeta(
        config=trial,
        paths={site: f"path.{site}" for site in trial.sites},
        thresholds={},
        realised_sparsity={},
        metrics=dict(metrics),
        history=tuple({"step": float(step), "seconds": spent} for step, spent in enumerate(seconds)),
        versions={},
        commit=None,
    )
    return Checkpoint(meta, {Site.parse(site): torch.ones(8) for site in trial.sites}, dict(scores or {}))
