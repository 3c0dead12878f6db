"""Storage of results: a directory, or a bucket with a local directory of the driver in front of it.

The workers of a sweep share only ``SweepFolder.tune``, where Ray Tune keeps trial states. The driver alone writes all
else, on its local disk, and copies it to the bucket while it works, so that a driver on another machine can resume from
the bucket. pyarrow reads and writes ``s3://`` and ``gs://`` with credentials from the environment.
"""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from socket import gethostname
from typing import Any
from urllib.parse import urlsplit

from pyarrow import ArrowException  # type: ignore[import-untyped]
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType  # type: ignore[import-untyped]

from search_spaces.errors import SponError
from search_spaces.files import write_whole
from sweep.terminal.display import say
from trainables.activity import tell
from trainables.cache import content_key

_URI, _MIRROR = "bucket.txt", "mirror.json"
"""Files that name the bucket (in its home) and who copied last (in a sweep)."""
_LAST = ("test.json", "meta.json", _MIRROR)
"""Files that are copied last, in this order, because they say that others are there."""
_LOCAL = {"driver.lock", "driver.json", "activity.json"}
_SHARED = ("mlflow.db", "mlartifacts")
"""The default MLflow, shared by all sweeps of a storage."""
_STATE = re.compile(r"[^/]+\.(?P<driver>\d+)/(?P<trial>[^/]+)/checkpoint_(?P<state>\d+)(?=/)")
"""Matches the directory of a state at the start of a file's path: Ray's folder of a stage, the trial, the state."""
_AT_ONCE = 16
_PUSH_SECONDS, _LEASE_SECONDS = 20.0, 120.0
_FAULTS = (OSError, ArrowException)


def home_of(storage: str, runs: Path = Path("runs")) -> Path:
    """Return the driver's local directory for a storage: the storage itself, or one for each bucket.

    Args:
        storage: a directory, or a URI of a bucket, such as ``s3://bucket/results``.
        runs: parent directory of those for buckets.

    Raises:
        SponError: if the URI is not supported.
    """
    if "://" not in storage:
        return Path(storage)
    parts = urlsplit(storage)
    if parts.scheme not in ("s3", "gs") or not parts.netloc or parts.query:
        raise SponError(
            f"a storage must be a directory, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, but got {storage} "
            "(at --storage; AWS_ENDPOINT_URL may name a server other than Amazon's)"
        )
    home = runs / f"{parts.netloc}-{content_key(storage.rstrip('/'))[:6]}"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / _URI).exists():
        write_whole(home / _URI, storage.rstrip("/"))
    return home


def root_of(home: Path) -> str:
    """Return the storage in Ray's form: the bucket's URI, or the directory's absolute path."""
    file = home / _URI
    return file.read_text() if file.exists() else str(home.resolve())


def is_bucket(home: Path) -> bool:
    """Whether a directory stands for a bucket."""
    return (home / _URI).exists()


def check_writable(home: Path) -> None:
    """Write a file into the bucket, if there is one, and remove it.

    Raises:
        SponError: if that fails.
    """
    if not is_bucket(home):
        return
    tell("checking the bucket")
    with _reached(home) as (files, root):
        probe = f"{root}/.probe-{gethostname()}"
        _write(files, probe, b"probe")  # a server that cannot take content may take an empty file
        files.delete_file(probe)


def check_free(folder: Path) -> None:
    """Refuse a sweep that a driver on another machine may still write to the bucket, if there is one.

    Raises:
        SponError: naming that driver.
    """
    home = folder.parent
    if not is_bucket(home):
        return
    with _reached(home) as (files, root):
        theirs = _read(files, f"{root}/{folder.name}/{_MIRROR}")
    if theirs is None:
        return
    last = _last(theirs)
    age = time.time() - last["at"]
    if last["lives"] and last["writer"] != _me(home) and age < _LEASE_SECONDS:
        raise SponError(
            f"another driver holds this sweep: {last['writer']} wrote to the bucket {age:.0f} s ago; "
            f"if it is lost, try again in {_LEASE_SECONDS - age:.0f} s (at {root_of(home)})"
        )


def pull(home: Path, name: str) -> None:
    """Copy a sweep from the bucket, if there is one, unless this machine wrote there last.

    Raises:
        SponError: if the bucket cannot be read.
    """
    if not is_bucket(home):
        return
    tell("looking into the bucket")
    with _reached(home) as (files, root):
        theirs, mine = _read(files, f"{root}/{name}/{_MIRROR}"), home / name / _MIRROR
        if theirs is None or (mine.exists() and (mine.read_bytes() == theirs or _last(theirs)["writer"] == _me(home))):
            return
        tell("copying the sweep from the bucket")
        places = [home / name, *(home / shared for shared in _SHARED if not (home / shared).exists())]
        there = {info.path.removeprefix(f"{root}/") for place in places for info in _listed(files, root, place.name)}
        there = {path for path in there if not path.startswith(f"{name}/tune/")}
        for gone in _stamps(home, [home / name]).keys() - there:
            (home / gone).unlink()

        def copy(path: str) -> None:
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(home / path, _read(files, f"{root}/{path}") or b"", sync=False)

        _each(copy, there)


def sweeps_in(home: Path) -> list[str]:
    """Return the names of the sweeps in a storage, including its bucket."""
    names = {file.parent.name for file in home.glob("*/space.json")}
    if is_bucket(home):
        with _reached(home) as (files, root):
            there = files.get_file_info(FileSelector(root, allow_not_found=True))
            names |= {info.base_name for info in there if _read(files, f"{info.path}/space.json") is not None}
    return sorted(names)


@contextmanager
def mirrored(folder: Path) -> Iterator[Callable[[], None]]:
    """Copy a sweep to the bucket, if there is one, while the block runs and once more at its end.

    Yields:
        A function that copies what has changed at once.

    Raises:
        SponError: if a driver on another machine holds the sweep.
    """
    if not is_bucket(folder.parent):
        yield lambda: None
        return
    check_free(folder)
    mirror = _Mirror(folder)
    mirror.push()
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(_PUSH_SECONDS):
            mirror.push()

    thread = threading.Thread(target=repeat, name="mirror", daemon=True)
    thread.start()
    try:
        yield mirror.push
    finally:
        over.set()
        thread.join()
        tell("copying results to the bucket")
        mirror.push(at_end=True)


def writer_of(folder: Path) -> str | None:
    """Return who writes a sweep to the bucket from another machine, according to the last ``pull``, or None."""
    file = folder / _MIRROR
    last = _last(file.read_bytes()) if file.exists() else {"lives": False}
    if not last["lives"] or last["writer"] == _me(folder.parent) or time.time() - last["at"] > _LEASE_SECONDS:
        return None
    return f"{last['writer']}, which writes to the bucket"


def _me(home: Path) -> str:
    """Identify this machine's directory for a bucket among all writers."""
    return f"{gethostname()}:{home.resolve()}"


def _last(mirror: bytes) -> dict[str, Any]:
    """Read who copied last: ``writer``, ``at`` (seconds since 1970), and ``lives``, false after its final copy."""
    last: dict[str, Any] = json.loads(mirror)
    return last


class _Mirror:
    """Updates the bucket's copy of one sweep and of what all sweeps share."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._home = folder, folder.parent
        self._known: dict[str, tuple[int, int]] = {}
        self._pushing = threading.Lock()
        self._warned = False

    def push(self, at_end: bool = False) -> None:
        """Copy what has changed. If the bucket does not answer, the next push tries again."""
        try:
            with self._pushing, _reached(self._home) as (files, root):
                self._push(files, root, at_end)
        except SponError as error:
            if not self._warned or at_end:
                say(f"not all results are in the bucket; all are kept in {self._folder} for `sweep sync`: {error}")
            self._warned = True

    def _push(self, files: FileSystem, root: str, at_end: bool) -> None:
        mirror = {"writer": _me(self._home), "at": time.time(), "lives": not at_end}
        write_whole(self._folder / _MIRROR, json.dumps(mirror))
        there = _stamps(self._home, [self._folder, *(self._home / name for name in _SHARED)])

        def copy(name: str) -> None:
            content = _content(self._home / name)
            if content is not None:
                _write(files, f"{root}/{name}", content)
                self._known[name] = there[name]

        _each(copy, [name for name, stamp in there.items() if self._known.get(name) != stamp])
        for name in self._known.keys() - there.keys():
            files.delete_file(f"{root}/{name}")
            del self._known[name]


def _stamps(home: Path, places: list[Path]) -> dict[str, tuple[int, int]]:
    """Return the time and size of each file that belongs in the bucket, by its path in the home."""
    found = {}
    for file in (f for place in places for f in (place.rglob("*") if place.is_dir() else [place])):
        name = file.relative_to(home)
        if file.name in _LOCAL or file.name.startswith(".") or name.parts[1:2] == ("tune",):
            continue
        try:
            stat = file.stat()
        except FileNotFoundError:  # replaced just now
            continue
        if file.is_file():
            found[str(name)] = (stat.st_mtime_ns, stat.st_size)
    return found


def _content(file: Path) -> bytes | None:
    """Read a file, or a consistent snapshot of a database in use. None if the file has just gone."""
    try:
        if file.suffix != ".db":
            return file.read_bytes()
        with closing(sqlite3.connect(file)) as database:
            return database.serialize()
    except FileNotFoundError:
        return None


def _each(copy: Callable[[str], None], paths: Iterable[str]) -> None:
    """Copy many files at a time, and those in ``_LAST`` after all others."""

    def turn(path: str) -> int:
        name = path.rpartition("/")[2]
        return _LAST.index(name) + 1 if name in _LAST else 0

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _, group in groupby(sorted(paths, key=turn), key=turn):
            list(pool.map(copy, group))


@contextmanager
def _reached(home: Path) -> Iterator[tuple[FileSystem, str]]:
    """Yield the bucket's file system and the prefix in it."""
    with answering(root_of(home)):
        yield FileSystem.from_uri(root_of(home))


@contextmanager
def answering(place: str) -> Iterator[None]:
    """Turn a bucket's fault into one line while the block runs. A fault of a file on this machine passes unchanged.

    Args:
        place: directory or URI.

    Raises:
        SponError: if a bucket does not answer.
    """
    try:
        yield
    except _FAULTS as error:
        if "://" not in place or getattr(error, "filename", None) is not None:
            raise
        raise SponError(f"the bucket must answer, but {' '.join(str(error).split())} (at {place})") from error


def _listed(files: FileSystem, root: str, name: str = "") -> list[FileInfo]:
    """List all files under a name below a root. The name may be that of a file."""
    place = f"{root}/{name}".rstrip("/")
    (info,) = files.get_file_info([place])
    if info.type == FileType.File:
        return [info]
    found: list[FileInfo] = files.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
    return [info for info in found if info.type == FileType.File]


def _read(files: FileSystem, path: str) -> bytes | None:
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.readall())
    except FileNotFoundError:
        return None


def _write(files: FileSystem, path: str, content: bytes) -> None:
    with files.open_output_stream(path) as stream:
        stream.write(content)


def states_in(tune: str) -> dict[str, list[str]]:
    """Return the paths of each trial's saved states, by trial name, newest first.

    A state may be truncated if its worker was lost while writing it.

    Args:
        tune: directory or URI of Ray Tune's files of a sweep.

    Raises:
        SponError: if the bucket does not answer.
    """
    with answering(tune):
        files, root = FileSystem.from_uri(tune)
        inside = {info.path.removeprefix(f"{root}/") for info in _listed(files, root)}
    found = {match[0]: match for path in inside if (match := _STATE.match(path))}
    states: dict[str, list[str]] = {}
    for place in sorted(found, key=lambda p: (int(found[p]["driver"]), int(found[p]["state"])), reverse=True):
        states.setdefault(found[place]["trial"], []).append(f"{tune}/{place}")
    return states


def drop_states(tune: str, trials: Collection[str]) -> None:
    """Remove the states of some trials, by name. Ray's logs remain."""
    with answering(tune):
        for state in (state for trial, states in states_in(tune).items() if trial in trials for state in states):
            files, path = FileSystem.from_uri(state)
            files.delete_dir(path)


def folders_in(tune: str) -> list[str]:
    """Return the names of Ray Tune's folders for a sweep."""
    with answering(tune):
        files, root = FileSystem.from_uri(tune)
        return [info.base_name for info in files.get_file_info(FileSelector(root, allow_not_found=True))]
