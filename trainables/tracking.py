"""What a sweep and an analysis both know of MLflow: where it is, and by which tags a run is found."""

import os
from pathlib import Path

EXPERIMENT = "spon-sweep"
TRIAL_TAG, SWEEP_TAG = "spon.trial", "spon.sweep"
"""A trial's run has its identity under the first; a sweep's run has the sweep's folder under the second."""
CHECKPOINT_ARTIFACT = "checkpoint"
"""Folder of a trial's run that holds its checkpoint."""


def default_tracking_uri(storage: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else a SQLite database in the storage directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def bound_waiting() -> None:
    """Give up on a server that does not answer after seconds, not after MLflow's four minutes of retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
