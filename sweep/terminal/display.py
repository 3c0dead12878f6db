"""Terminal output while a command runs, never silent for ten seconds.

On a terminal it is live (``sweep.terminal.live``). In a file or a pipe it prints lines: one per event, one when an
activity is new, and one after a silence. All output of a command goes through here until its result is printed.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from search_spaces.files import write_whole
from sweep.terminal.view import Standing, View, short, time_left
from trainables.activity import Activity, listen

if TYPE_CHECKING:
    from trainables.listener import Heard  # imports Ray

ACTIVITY = "activity.json"
"""File in a sweep's folder with its current activity, while its driver runs."""
QUIET_SECONDS = 7.0
"""Silence after which a line is printed."""
_TICK_SECONDS = 1.0
_WRITE_SECONDS, _FRESH_SECONDS = 2.0, 10.0
_OTHER_LINES = 8
"""Lines of a live terminal for everything but workers."""


class Stage(Protocol):
    """A stage to follow, which knows its progress and hears its workers."""

    def standing(self) -> Standing:
        """Return how far it is."""

    def heard(self, who: str, activity: Activity, now: float) -> None:
        """Record what a worker does, at a time of the monotonic clock."""


class Display:
    """Owns the terminal while a command runs (``with Display():``).

    Args:
        stream: standard output by default; live if it is a terminal.
        clock: returns seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock, self._lock = stream or sys.stdout, clock, threading.RLock()
        self._began = self._spoke = clock()
        self._doing, self._since = Activity("starting"), self._began
        self._workers: dict[str, tuple[Activity, float]] = {}
        self._left: dict[str, Activity] = {}
        self._known: set[str] = set()
        self._stage: Stage | None = None
        self._ask: Callable[[], Heard | None] = lambda: None
        self._asking = threading.Lock()
        self._file: Path | None = None
        self._written, self._wrote = "", 0.0
        self._over = threading.Event()
        # A busy Ray may take many seconds to answer, and a busy disk to write. Neither may silence the terminal
        work = {"display": self.tick, "ear": self.ask, "file": self.write}
        self._threads = [threading.Thread(target=self._repeat, args=(w,), name=n, daemon=True) for n, w in work.items()]
        self._live: Any = None

    def __enter__(self) -> "Display":
        global _current
        if self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            from rich.console import Console  # takes a tenth of a second, with the next
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=True)
            self._live.start()  # all other output goes above it
        self._before, _current = (_current, listen(self.hear)), self
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the terminal. Safe to repeat."""
        global _current
        if self._over.is_set():
            return
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._live:
            self._live.stop()
        _current, listener = self._before
        listen(listener)
        if self._file:
            self._file.unlink(missing_ok=True)

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._over.wait(_TICK_SECONDS):
            work()

    def ask(self) -> None:
        """Ask what the workers do."""
        with self._asking:
            heard = self._ask()
        with self._lock:
            if heard is not None:
                self._hear_workers(heard)

    def tick(self) -> None:
        """Refresh the live display, or print the current state after a silence."""
        with self._lock:
            view = self.view()
            if self._live:
                from sweep.terminal.live import rendered

                self._live.update(rendered(view, self._live.console.height - _OTHER_LINES), refresh=True)
            elif self._clock() - self._spoke >= QUIET_SECONDS:
                self.say(view.line)

    def say(self, line: str) -> None:
        """Print a permanent line, with the time in front."""
        with self._lock:
            self._spoke = self._clock()
            text = f"{self._time:>6}  {line}"
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)

    def hear(self, activity: Activity) -> None:
        """Record what this process does, and print a line if it is new."""
        with self._lock:
            if activity.what != self._doing.what:
                self._since = self._clock()
            self._doing = activity
            self._introduce(activity, "")

    def _introduce(self, activity: Activity, who: str) -> None:
        if activity.what not in self._known:
            self._known.add(activity.what)
            if not self._live:
                self.say(f"{short(who)}: {activity}" if who else str(activity))

    def _hear_workers(self, heard: "Heard") -> None:
        now = self._clock()
        for who, activity in heard.news:
            self._introduce(activity, who)
        at_work = {who: activity for who, activity in heard.now.items() if self._left.get(who) != activity}
        for who in self._workers.keys() - at_work.keys():
            del self._workers[who]
        for who, activity in at_work.items():
            before, since = self._workers.get(who, (None, now))
            self._workers[who] = activity, since if before and before.what == activity.what else now
            if self._stage:
                self._stage.heard(who, activity, now)

    def follow(self, stage: Stage | None) -> None:
        """Show the progress of a stage from now on; None for no stage.

        The last activities of workers end with their stage: a worker that a scheduler stopped reports nothing more.
        """
        with self._lock:
            self._stage, self._since = stage, self._clock()
            self._left |= {who: activity for who, (activity, _) in self._workers.items()}
            self._workers.clear()

    @contextmanager
    def asking(self, ask: "Callable[[], Heard | None]") -> Iterator[None]:
        """Hear the workers while the block runs, and once more at its end."""
        self._ask = ask
        try:
            yield
        finally:
            self.ask()
            self.tick()
            with self._asking:  # no request is open when the block ends, so Ray may stop
                self._ask = lambda: None
            self._workers.clear()

    def keep_in(self, folder: Path) -> None:
        """Also write what is shown to a sweep's folder, for other processes."""
        self._file = folder / ACTIVITY

    def view(self) -> View:
        """Return what to show now."""
        with self._lock:
            now, standing = self._clock(), self._stage.standing() if self._stage else None
            starting = "" if self._workers else "; workers are starting"
            return View(
                time=self._time,
                text=standing.text + starting if standing else _with_time(self._doing, now - self._since),
                share=standing.share if standing else None,
                left=time_left(standing.seconds_left) if standing else "",
                workers=tuple((short(who), _with_time(a, now - since)) for who, (a, since) in self._workers.items()),
                best=standing.best if standing else (),
            )

    @property
    def _time(self) -> str:
        minutes, seconds = divmod(int(self._clock() - self._began), 60)
        return f"{minutes}:{seconds:02d}"

    def write(self) -> None:
        """Write the view for other processes, if it has changed or the file would look old."""
        now, view = self._clock(), self.view()
        text = json.dumps(asdict(view) | {"time": ""})
        due = _WRITE_SECONDS if text != self._written else _FRESH_SECONDS
        if self._file is None or now - self._wrote < due:
            return
        try:
            write_whole(self._file, json.dumps(asdict(view) | {"at": time.time()}))
        except OSError:  # writing the sweep's own files reports what is wrong with the disk
            return
        self._written, self._wrote = text, now


def _with_time(activity: Activity, seconds: float) -> str:
    """Format an activity, with its duration if it does not report its progress."""
    return str(activity) if activity.unit or seconds < 1 else f"{activity}, {seconds:.0f} s"


_current: Display | None = None


def say(line: str) -> None:
    """Print a line through the display of the running command, or plainly if there is none."""
    if _current is None:
        print(line, flush=True)
    else:
        _current.say(line)


def follow(stage: Stage | None) -> None:
    """Show the progress of a stage, if a command runs."""
    if _current is not None:
        _current.follow(stage)


def finish() -> None:
    """Close the display, because the command prints its result from here on."""
    if _current is not None:
        _current.close()


def showing() -> Display | None:
    """Return the display of the running command."""
    return _current
