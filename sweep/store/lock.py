"""Allows one driver per sweep. A second one gets an error that names the first."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import gethostname

from filelock import FileLock, Timeout

from search_spaces.errors import SponError
from search_spaces.files import write_whole

_LOCK, _HOLDER = "driver.lock", "driver.json"
_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0
"""Time for a driver to store the results in hand."""
_LOOK_SECONDS = 1.0
"""Time to wait for a lock, which a process that only checks it holds for an instant."""


@dataclass(frozen=True)
class Holder:
    """The driver of a sweep.

    Attributes:
        host, pid: its process.
        since: start time, in seconds since 1970.
        command: command that started it.
    """

    host: str
    pid: int
    since: float
    command: str

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {began} ({self.command})"


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Be the only driver of a sweep while the block runs. The kernel frees the lock of a dead process.

    Args:
        folder: folder of the sweep.

    Raises:
        SponError: if another process drives it.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_LOOK_SECONDS)
    except Timeout:
        who = _read(folder) or "a process that has just started"
        raise SponError(f"another driver holds this sweep: {who} (at {folder})") from None
    try:
        me = Holder(gethostname(), os.getpid(), time.time(), shlex.join(sys.orig_argv))
        write_whole(folder / _HOLDER, json.dumps(asdict(me)))
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def driver_of(folder: Path) -> Holder | None:
    """Return the current driver of a sweep; None if there is none, or it was killed."""
    lock = FileLock(folder / _LOCK)
    if not (folder / _LOCK).exists():
        return None
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _read(folder)
    lock.release()
    return None


def stop_driver(folder: Path) -> Holder | None:
    """Ask the driver of a sweep to stop, as Ctrl-C does, and wait until it has stored the results in hand.

    Returns:
        The driver, or None if there was none.

    Raises:
        SponError: if it is on another machine, or does not stop in time.
    """
    holder = driver_of(folder)
    if holder is None:
        return None
    if holder.host != gethostname():
        raise SponError(f"a driver must be stopped on its own machine: `kill {holder.pid}` on {holder.host}")
    os.kill(holder.pid, signal.SIGTERM)  # a script's background process ignores SIGINT
    asked = time.monotonic()
    while driver_of(folder) is not None:
        if time.monotonic() - asked > _STOP_SECONDS:
            raise SponError(f"a driver must stop within {_STOP_SECONDS:.0f} s, but {holder} has not yet")
        time.sleep(_POLL_SECONDS)
    return holder


def _read(folder: Path) -> Holder | None:
    try:
        return Holder(**json.loads((folder / _HOLDER).read_text()))
    except FileNotFoundError:  # the driver has just started, or is about to end
        return None
