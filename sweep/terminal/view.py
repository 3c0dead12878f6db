"""What there is to show of a command that runs, without a terminal to show it on."""

import re
from dataclasses import dataclass

_IN_A_LINE = 4
"""Workers in a line at most."""
_HASH = re.compile(r"_[0-9a-f]{10}(?=_|$)")


@dataclass(frozen=True)
class Standing:
    """How far a stage of a sweep is.

    Attributes:
        text: such as ``2 of 12 trials done``.
        share: of the work that is done, in 0..1.
        seconds_left: about; None while that is not known.
        best: what is best so far, a line each.
    """

    text: str
    share: float
    seconds_left: float | None = None
    best: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """All that there is to show.

    Attributes:
        time: since the command began, as ``m:ss``.
        text: what the command does, or how far the stage is.
        share: of the stage's work; None without a stage.
        left: the time that is left, in words, if that is known.
        workers: what each does.
        best: so far.
    """

    time: str
    text: str
    share: float | None
    left: str
    workers: tuple[tuple[str, str], ...]
    best: tuple[str, ...]

    @property
    def line(self) -> str:
        """For a file: all but the best so far."""
        workers = [f"{who}: {what}" for who, what in self.workers[:_IN_A_LINE]]
        more = len(self.workers) - _IN_A_LINE
        return "; ".join(filter(None, (self.text, *workers, f"{more} more" if more > 0 else "", self.left)))


def short(name: str) -> str:
    """A trial's name without the start of its identity."""
    return _HASH.sub("", name)


def time_left(seconds: float | None) -> str:
    """In words; nothing if it is not known."""
    return "" if seconds is None else f"about {duration(max(seconds, 1))} left"


def duration(seconds: float) -> str:
    """In words, such as ``45 s``, ``9 min`` or ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
