"""What the terminal says while a command runs: never nothing for ten seconds.

On a terminal it is live (``sweep.terminal.live``); elsewhere, in a file or a pipe, it is lines: one an event, one when
something is done for the first time, and one whenever nothing was said for a while. All output of a command goes
through here until its result is printed.
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
from typing import Any, Protocol, TextIO

from search_spaces.files import write_whole
from sweep.terminal.view import Standing, View, short, time_left
from trainables.activity import Activity, listen

ACTIVITY = "activity.json"
"""File in a sweep's folder: what it is doing now, while its driver lives."""
QUIET_SECONDS = 7.0
"""Without a line, after which there is one."""
_TICK_SECONDS = 1.0
_WRITE_SECONDS, _FRESH_SECONDS = 2.0, 10.0


class Stage(Protocol):
    """What is followed: it knows how far it is, and hears its workers."""

    def standing(self) -> Standing:
        """How far it is."""

    def heard(self, who: str, activity: Activity, now: float) -> None:
        """A worker said what it does, at a time of the monotonic clock."""


class Heard(Protocol):
    """What workers do: now, and begun since the last question (``trainables.listener.Heard``)."""

    now: dict[str, Activity]
    news: list[tuple[str, Activity]]


class Display:
    """Owns the terminal while a command runs (``with Display():``).

    Args:
        stream: standard output by default; live if it is a terminal.
        clock: gives seconds.
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
        # A busy Ray may take many seconds to answer, and a busy disk to write: neither must silence the terminal
        work = {"display": self.tick, "ear": self.ask, "file": self.write}
        self._threads = [threading.Thread(target=self._repeat, args=(w,), name=n, daemon=True) for n, w in work.items()]
        self._live: Any = None

    def __enter__(self) -> "Display":
        global _current
        if self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            from sweep.terminal.live import start_live  # a tenth of a second

            self._live = start_live(self._stream)
        self._before, _current = (_current, listen(self.hear)), self
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to others; harmless if that is done."""
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
        """Hear the workers."""
        with self._asking:
            heard = self._ask()
        with self._lock:
            if heard is not None:
                self._hear_workers(heard)

    def tick(self) -> None:
        """Say where things stand if nothing else was said for a while."""
        with self._lock:
            view = self.view()
            if self._live:
                self._live.update(view, refresh=True)
            elif self._clock() - self._spoke >= QUIET_SECONDS:
                self.say(view.line)

    def say(self, line: str) -> None:
        """One line, with the time in front, that stays."""
        with self._lock:
            self._spoke = self._clock()
            text = f"{self._time:>6}  {line}"
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)

    def hear(self, activity: Activity) -> None:
        """What this process does; a line if it never did that before."""
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

    def _hear_workers(self, heard: Heard) -> None:
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
        """Show how far a stage is, from now on; None for no stage.

        What workers did last in a stage is over with it: one that a scheduler stopped says nothing more.
        """
        with self._lock:
            self._stage, self._since = stage, self._clock()
            self._left |= {who: activity for who, (activity, _) in self._workers.items()}
            self._workers.clear()

    @contextmanager
    def asking(self, ask: Callable[[], Heard | None]) -> Iterator[None]:
        """Have the workers heard while the block runs, and once more at its end."""
        self._ask = ask
        try:
            yield
        finally:
            self.ask()
            self.tick()
            with self._asking:  # no question is open when the block ends: Ray may go
                self._ask = lambda: None
            self._workers.clear()

    def keep_in(self, folder: Path) -> None:
        """Write what is shown into a sweep's folder, for other processes."""
        self._file = folder / ACTIVITY

    def view(self) -> View:
        """What is to be shown now."""
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
        except OSError:  # the sweep's own files say what is wrong with the disk
            return
        self._written, self._wrote = text, now


def _with_time(activity: Activity, seconds: float) -> str:
    """An activity, with how long it has lasted if nothing else tells how far it is."""
    return str(activity) if activity.unit or seconds < 1 else f"{activity}, {seconds:.0f} s"


_current: Display | None = None


def say(line: str) -> None:
    """Print a line in the way of the command that runs; as it is where none does."""
    if _current is None:
        print(line, flush=True)
    else:
        _current.say(line)


def follow(stage: Stage | None) -> None:
    """Show how far a stage is, if a command runs."""
    if _current is not None:
        _current.follow(stage)


def finish() -> None:
    """The command prints its result from here on: nothing else is to be shown."""
    if _current is not None:
        _current.close()


def showing() -> Display | None:
    """The display of the command that runs."""
    return _current
