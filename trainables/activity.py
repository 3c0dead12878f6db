"""Reports what this process is doing to a listener. There is none by default, and then reporting costs nothing.

Slow code reports what it does (``tell``, ``track``). Whoever shows it sets a listener (``listening``): a worker sends
reports to the driver, the driver shows them on its terminal, and a notebook prints them.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_PRINT_SECONDS = 5.0


@dataclass(frozen=True)
class Activity:
    """One activity of a process.

    Attributes:
        what: one of a few phrases, without numbers, that tells one activity from the next.
        done, total: progress; None as the total where the end is unknown.
        unit: what is counted.
        note: anything else, such as the loss.
    """

    what: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        count = f"{self.done}" if self.total is None else f"{self.done} of {self.total}"
        far = f"{self.unit} {count}" if self.unit else ""
        return ", ".join(filter(None, (self.what, far, self.note)))


Listener = Callable[[Activity], None]
_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Set the listener while the block runs, then restore the previous one."""
    before = listen(listener)
    try:
        yield
    finally:
        listen(before)


def listen(listener: Listener | None) -> Listener | None:
    """Set the listener and return the previous one."""
    global _listener
    before, _listener = _listener, listener
    return before


def tell(what: str, done: int = 0, total: int | None = None, unit: str = "", note: str = "") -> None:
    """Report what this process does; the arguments are those of ``Activity``."""
    if _listener is not None:
        _listener(Activity(what, done, total, unit, note))


def track(items: Iterable[T], what: str, unit: str) -> Iterator[T]:
    """Yield items, and report before the first and after each how many are done, and the total if known."""
    total = len(items) if isinstance(items, Collection) else None
    tell(what, 0, total, unit)
    for done, item in enumerate(items, start=1):
        yield item
        tell(what, done, total, unit)


class Throttle:
    """Forwards an activity if it differs from the previous one, or ``seconds`` have passed."""

    def __init__(self, listener: Listener, seconds: float) -> None:
        self._listener, self._seconds = listener, seconds
        self._what, self._said = "", 0.0

    def __call__(self, activity: Activity) -> None:
        """Take an activity."""
        now = time.monotonic()
        if activity.what == self._what and now - self._said < self._seconds:
            return
        self._what, self._said = activity.what, now
        self._listener(activity)


def printer() -> Listener:
    """A listener for a notebook or a script that prints a line to ``stderr`` now and then."""
    return Throttle(lambda activity: print(activity, file=sys.stderr, flush=True), _PRINT_SECONDS)
