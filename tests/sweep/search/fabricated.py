"""Scores and checkpoints as if something had been trained."""

from collections.abc import Mapping, Sequence

import torch

from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.checkpoint import Checkpoint, CheckpointMeta
from trainables.scores import Scores


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
