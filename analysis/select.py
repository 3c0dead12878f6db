"""Which trials to look at."""

from pathlib import Path

from search_spaces.errors import SponError
from trainables.checkpoint import Checkpoint, read_checkpoint


def best_of_sweep(storage: Path, name: str, top: int, by: str) -> list[Checkpoint]:
    """The best trials with biases of each sparsity plan of a sweep.

    Args:
        storage: directory of all results.
        name: of the sweep.
        top: trials of each plan.
        by: metric of the checkpoints, lowest first.

    Returns:
        Checkpoints, best first within each plan.

    Raises:
        SponError: if there is no such sweep, no finished trial with biases, or no such metric.
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
        plans.setdefault(checkpoint.meta.config.plan.label, []).append(checkpoint)
    return [checkpoint for ranked in plans.values() for checkpoint in ranked[:top]]
