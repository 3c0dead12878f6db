"""Selects checkpoints to examine: the best of a sweep, the choice of a search, MLflow runs, or directories."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from search_spaces.errors import SponError
from trainables.checkpoint import Checkpoint, read_checkpoint
from trainables.selection import read_selection
from trainables.tracking import CHECKPOINT_ARTIFACT, bound_waiting


def best_of_sweep(storage: Path, name: str, top: int, by: str) -> list[Checkpoint]:
    """Read the best trials with biases of each sparsity plan of a sweep.

    Args:
        storage: directory of all results.
        name: of the sweep.
        top: trials of each plan, best first.
        by: metric of the checkpoints, lowest first.

    Raises:
        SponError: if the sweep or the metric does not exist, or no finished trial has biases.
    """
    if top < 1:
        raise SponError(f"top must be at least 1, but got {top} (at --top)")
    directories = sorted((storage / name).glob("trials/*/checkpoint"))
    checkpoints = [checkpoint for checkpoint in map(read_checkpoint, directories) if checkpoint.biases]
    if not checkpoints:
        raise SponError(f"a sweep must have a finished trial with biases, but {name!r} has none (at {storage / name})")
    known = sorted(set.intersection(*(set(checkpoint.meta.metrics) for checkpoint in checkpoints)))
    if by not in known:
        raise SponError(f"a metric must be one of {', '.join(known)}, but got {by!r} (at --by)")
    plans: dict[str, list[Checkpoint]] = {}
    for checkpoint in sorted(checkpoints, key=lambda c: c.meta.metrics[by]):
        plans.setdefault(checkpoint.meta.config.plan_label, []).append(checkpoint)
    return [checkpoint for ranked in plans.values() for checkpoint in ranked[:top]]


def chosen_by_search(file: Path) -> list[Checkpoint]:
    """Read every seed of the masks that a search chose. A comparison needs the seeds as its null.

    Raises:
        SponError: if the file is not a search's ``selection.json``, or a checkpoint is missing.
    """
    masks = [mask for mask in read_selection(file).masks if mask.role == "chosen"]
    return from_directories(file.parent / place for mask in masks for place in mask.checkpoints)


def from_directories(directories: Iterable[Path]) -> list[Checkpoint]:
    """Read checkpoints with biases.

    Raises:
        SponError: if one is not a checkpoint, or is TEAL alone.
    """
    return [_with_biases(read_checkpoint(directory), str(directory)) for directory in directories]


def from_runs(runs: Sequence[str], tracking_uri: str) -> list[Checkpoint]:
    """Download the checkpoints of MLflow runs.

    Raises:
        SponError: if MLflow does not answer, or a run or its checkpoint does not exist.
    """
    bound_waiting()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    found = []
    for run in runs:
        with TemporaryDirectory() as scratch:
            try:
                client = MlflowClient(tracking_uri)
                if not client.list_artifacts(run, CHECKPOINT_ARTIFACT):
                    raise SponError(f"a run must have a finished trial's checkpoint, but {run} has none (at --run)")
                directory = client.download_artifacts(run, CHECKPOINT_ARTIFACT, scratch)
            except (MlflowException, RequestException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise SponError(f"a run must be in MLflow, but {run}: {reason} (at {tracking_uri})") from error
            found.append(_with_biases(read_checkpoint(Path(directory)), f"run {run}"))
    return found


def _with_biases(checkpoint: Checkpoint, where: str) -> Checkpoint:
    if not checkpoint.biases:
        raise SponError(f"a trial to examine must have biases, but {checkpoint.meta.config.name} has none (at {where})")
    return checkpoint
