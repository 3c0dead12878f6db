"""States of a trial in progress, on a disk that all nodes share: whoever takes the trial up goes on from the newest."""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from trainables.cache import written_aside
from trainables.checkpoint import write_checkpoint
from trainables.trial import Trial

_KEPT = 2
"""The one before the newest is for a newest that cannot be read, or that another node does not see yet."""


def save_state(trial: Trial, directory: Path) -> Path:
    """Write the state of a trial, whole or not at all, with its checkpoint if it is done.

    Args:
        trial: to be taken up later.
        directory: of its states; older ones are removed.

    Returns:
        The state's own directory.
    """
    place = directory / f"{len(trial.history):06d}"
    with written_aside(place) as aside:
        trial.save(aside)
        if trial.done:
            write_checkpoint(trial.finish(), aside)
    for old in _states(directory)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def take_up(begin: Callable[[], Trial], directory: Path) -> tuple[Trial, Path | None]:
    """A trial as its newest state has it that can be read, with that state; or at its beginning.

    What cannot be read is removed.
    """
    for state in reversed(_states(directory)):
        trial = begin()
        try:
            trial.load(state)
        except (OSError, SafetensorError, ValueError, KeyError) as error:  # ValueError: no JSON, another shape
            print(f"a state of the trial cannot be read: {error} (at {state})")
            shutil.rmtree(state, ignore_errors=True)
        else:
            return trial, state
    return begin(), None


def _states(directory: Path) -> list[Path]:
    return sorted(directory.glob("[0-9]*"))
