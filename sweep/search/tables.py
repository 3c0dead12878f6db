"""Tables of a search, for its pictures."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import TrialState

from sweep.search.mask_log import MaskLog
from sweep.search.mask_search import open_journal
from trainables.checkpoint import Checkpoint

_FEW = 20
"""Minimum number of complete masks for a meaningful importance."""
_COLUMNS = ("name", "sites", "n_spon_params", "kl_nats", "blocks")


def mask_table(log: MaskLog, full: int) -> pd.DataFrame:
    """The masks that were scored on all blocks, in order of scoring.

    Args:
        log: of the masks.
        full: blocks of the last rung.

    Returns:
        Columns ``name``, ``sites``, ``n_spon_params``, ``kl_nats`` and ``blocks``: blocks spent since the previous
        row, including those on masks that were stopped early.
    """
    rows, spent, before = [], 0, dict[str, int]()
    for record in log.records.values():
        identity = record.trial.identity
        spent += record.blocks - before.get(identity, 0)
        before[identity] = record.blocks
        if record.blocks == full:
            trial = record.trial
            rows.append((trial.allocation, trial.sites, trial.n_spon_params, record.kl_nats, spent))
            spent = 0
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def trained_masks(trained: Sequence[Checkpoint]) -> pd.DataFrame:
    """The same table for trained masks, where ``blocks`` counts those of training and validation."""
    rows = []
    for checkpoint in trained:
        config, history = checkpoint.meta.config, checkpoint.meta.history
        size = config.training.batch_size * config.training.gradient_accumulation_steps
        blocks = int(history[-1]["step"]) * size + len(history) * config.corpus.blocks.validation
        kl_nats = checkpoint.meta.metrics["val_kl_nats"]
        rows.append((config.allocation, config.sites, config.n_spon_params, kl_nats, blocks))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def trained_table(trained: Sequence[Checkpoint], named: Collection[str], log: MaskLog, full: int) -> pd.DataFrame:
    """The results of training.

    Args:
        trained: trials of the first seed.
        named: labels of the space's own allocations.
        log: of the masks on the proxy, empty without one.
        full: blocks of the last rung.

    Returns:
        Columns ``name``, ``kind`` (named or searched), ``sites``, ``n_spon_params``, ``val_kl_nats``, ``val_ppl`` and
        ``proxy_kl_nats``, NaN for masks without a proxy score.
    """
    scored = {record.trial.sites: record.kl_nats for record in log.on(full)}
    rows = []
    for checkpoint in trained:
        config, metrics = checkpoint.meta.config, checkpoint.meta.metrics
        rows.append(
            {
                "name": config.allocation,
                "kind": "named" if config.allocation in named else "searched",
                "sites": config.sites,
                "n_spon_params": config.n_spon_params,
                "val_kl_nats": metrics["val_kl_nats"],
                "val_ppl": metrics["val_ppl"],
                "proxy_kl_nats": scored.get(config.sites, float("nan")),
            }
        )
    return pd.DataFrame(rows)


def importances(study_name: str, journal: Path) -> Mapping[str, float]:
    """Optuna's importance of each parameter for whether a mask is among the better ones. Empty for few masks."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # imports scikit-learn: 0.8 s

    study = optuna.load_study(study_name=study_name, storage=open_journal(journal))
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _FEW:
        return {}
    first = (lambda trial: float(trial.values[0])) if len(study.directions) > 1 else None
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), target=first)
