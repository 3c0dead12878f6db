"""What to show of a running command, independent of a terminal."""

import re
from dataclasses import dataclass

_IN_A_LINE = 4
"""Most workers in a line."""
_HASH = re.compile(r"_[0-9a-f]{10}(?=_|$)")


@dataclass(frozen=True)
class Standing:
    """Progress of a stage of a sweep.

    Attributes:
        text: progress in words, such as ``2 of 12 trials done``.
        share: share of the work done, in 0..1.
        seconds_left: estimated time left; None while unknown.
        best: best results so far, one per line.
    """

    text: str
    share: float
    seconds_left: float | None = None
    best: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """Everything to show.

    Attributes:
        time: time since the command began, as ``m:ss``.
        text: what the command does, or how far the stage is.
        share: share of the stage's work done; None without a stage.
        left: time left in words, if known.
        workers: name and activity of each.
        best: best results so far.
    """

    time: str
    text: str
    share: float | None
    left: str
    workers: tuple[tuple[str, str], ...]
    best: tuple[str, ...]

    @property
    def line(self) -> str:
        """The view as a line for a file: all but the best so far."""
        workers = [f"{who}: {what}" for who, what in self.workers[:_IN_A_LINE]]
        more = len(self.workers) - _IN_A_LINE
        return "; ".join(filter(None, (self.text, *workers, f"{more} more" if more > 0 else "", self.left)))


def short(name: str) -> str:
    """Return a trial's name without the start of its identity."""
    return _HASH.sub("", name)


def time_left(seconds: float | None) -> str:
    """Format the time left in words; empty if unknown."""
    return "" if seconds is None else f"about {duration(max(seconds, 1))} left"


def duration(seconds: float) -> str:
    """Format a duration, such as ``45 s``, ``9 min`` or ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
