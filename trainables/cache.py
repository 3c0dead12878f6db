"""The local cache: content-addressed directories that are written once, whole or not at all.

Layout under ``cache_root()``: one folder per kind (``models``, ``corpora``, ``teacher``, ...), in it one directory per
key. A directory that exists is complete: it was built beside its place, and renamed into it once the disk had it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from safetensors import SafetensorError

from search_spaces.errors import NodeError
from trainables.activity import tell


def cache_root() -> Path:
    """The user's cache directory for this product; ``SPON_CACHE`` overrides it."""
    override = os.environ.get("SPON_CACHE")
    return Path(override) if override else user_cache_path("spon-sweep")


def content_key(*parts: object) -> str:
    """A short hash of JSON-able parts, the name of a cached directory."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def is_cached(kind: str, key: str) -> bool:
    """Whether ``cached`` would have nothing to build."""
    return (cache_root() / kind / key).is_dir()


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The cached directory of a key (``content_key``), which ``build`` fills first if it is not there.

    Several processes may ask at once: one builds, the others wait. The lock is the kernel's, so that of a process that
    died is free.

    Raises:
        NodeError: if the cache cannot be written. What ``build`` raises of a file elsewhere, such as one that it reads,
            stays what it is.
    """
    place = cache_root() / kind / key
    if place.is_dir():
        return place
    with writable(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _held(FileLock(place.parent / f"{key}.lock"), kind):
            if not place.is_dir():
                for left in place.parent.glob(f".{key}.*"):  # by a process that was killed: the lock is ours
                    shutil.rmtree(left)
                with written_aside(place) as aside:
                    build(aside)
    return place


def cached_together(
    kind: str, key: str, builds: Sequence[Callable[[Path], None]], merge: Callable[[list[Path], Path], None]
) -> Path:
    """The cached directory of a key, merged from parts that all processes which ask for it build side by side.

    Args:
        kind: folder of the cache.
        key: what decides the content.
        builds: what fills the directory of each part. What another process has begun is left to it.
        merge: fills the key's directory from those of the parts, which are then removed.
    """
    place, names = cache_root() / kind / key, [f"part{number}-{key}" for number in range(len(builds))]

    def unless_merged(build: Callable[[Path], None], directory: Path) -> None:
        if not place.is_dir():  # by another process, while this one waited for it
            build(directory)

    for wait in (False, True):
        for name, build in zip(names, builds, strict=True):
            if not place.is_dir() and (wait or not _is_being_built(kind, name)):
                cached(kind, name, partial(unless_merged, build))
    parts = [cache_root() / kind / name for name in names]
    cached(kind, key, lambda directory: merge(parts, directory))
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
        part.with_name(f"{part.name}.lock").unlink(missing_ok=True)
    return place


def _is_being_built(kind: str, key: str) -> bool:
    lock = cache_root() / kind / f"{key}.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def _held(lock: FileLock, kind: str) -> Iterator[None]:
    """Hold a lock; say so if another process has it."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waiting for the {kind} that another process makes")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def written_aside(place: Path) -> Iterator[Path]:
    """A fresh directory that takes the name ``place`` if the block ends without an exception, and is removed otherwise.

    Nobody ever sees a half-written ``place``. One that exists is replaced, and comes back if it cannot be.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield aside
        _share_and_sync(aside)
        _rename(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _share_and_sync(directory: Path) -> None:
    """Show all of a directory to the user's group, from which mkdtemp and safetensors hide what they make, and wait
    until the disk has it: after a loss of power, a name would stand for half of it.
    """
    for path in (*directory.rglob("*"), directory):
        path.chmod(0o755 if path.is_dir() else 0o644)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(new: Path, place: Path) -> None:
    """Give a directory the name ``place``; the one that had it is removed afterwards, and not before."""
    if not place.exists():
        new.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        place.rename(old)
        new.rename(place)
    finally:
        if not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)


_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EFBIG),
    *(errno.ESTALE, errno.EIO, errno.ENOTCONN),  # NFS and a mounted bucket, when they are lost
}


@contextmanager
def writable(where: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a network's disk that is lost into one clear line.

    An error that names a file elsewhere is not of the output, and stays what it is.

    Raises:
        NodeError: naming the directory and what to do.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _is_elsewhere(error, where):
            raise
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(next(p for p in (where, *where.parents) if p.exists())).free / 2**20
            raise NodeError(
                f"the disk must have room for the output, but {free:.0f} MiB are free (at {where})"
            ) from error
        if number in _UNWRITABLE:
            raise NodeError(f"the output directory must be writable, but {os.strerror(number)} (at {where})") from error
        raise


def _is_elsewhere(error: OSError | SafetensorError, where: Path) -> bool:
    """Whether an error names a file that is neither in the directory nor one of those above it."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str):
        return False
    file, directory = Path(named).absolute(), where.absolute()
    return directory not in (file, *file.parents) and file not in directory.parents


def _errno(error: OSError | SafetensorError) -> int | None:
    """The error number, which safetensors' writer gives in words only."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None
