"""MLflow conventions that a sweep and an analysis share: where it is, and which tags identify a run."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from search_spaces.errors import SponError

EXPERIMENT = "spon-sweep"
TRIAL_TAG, SWEEP_TAG = "spon.trial", "spon.sweep"
"""A trial's run has its identity in the first tag; a sweep's run has the sweep's id in the second."""
CHECKPOINT_ARTIFACT = "checkpoint"
"""Folder of a trial's run that holds its checkpoint."""


def tracking_uri(given: str | None, storage: Path) -> str:
    """The given URI, else ``MLFLOW_TRACKING_URI`` if it is set, else a SQLite database in the storage directory.

    Raises:
        SponError: if it contains a password.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve() / 'mlflow.db'}"
    refuse_password(uri, "--mlflow-uri" if given else "MLFLOW_TRACKING_URI")
    return uri


def refuse_password(uri: str, where: str) -> None:
    """Refuse an address with a password. Addresses are printed and stored, so secrets belong in the environment.

    Raises:
        SponError: if it contains a password; the message does not.
    """
    parts = urlsplit(uri)
    if parts.password or "password" in parse_qs(parts.query):
        raise SponError(
            f"an address must hold no password, but that of {parts.hostname} does; set PGPASSWORD for PostgreSQL, "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for an MLflow server (at {where})"
        )


def bound_waiting() -> None:
    """Give up on an unresponsive server after seconds, not after MLflow's four minutes or PostgreSQL's two."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
