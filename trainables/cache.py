"""The local cache: content-addressed directories that are written once, whole or not at all.

Layout under ``cache_root()``: one folder per kind (``models``, ``corpora``, ``teacher``, ...), with one directory per
key. A directory that exists is complete: it is built next to its final place, synced to disk, and then renamed.
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

from search_spaces.errors import NodeError, SponError
from trainables.activity import tell


def cache_root() -> Path:
    """The user's cache directory for this product; ``SPON_CACHE`` overrides it."""
    override = os.environ.get("SPON_CACHE")
    return Path(override) if override else user_cache_path("spon-sweep")


def content_key(*parts: object) -> str:
    """A short hash of JSON-able parts, the name of a cached directory."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def is_cached(kind: str, key: str) -> bool:
    """Whether ``cached`` has nothing to build."""
    return (cache_root() / kind / key).is_dir()


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The cached directory of a key (``content_key``), which ``build`` fills first if it is missing.

    Several processes may ask at once: one builds, the others wait. The kernel holds the lock, and frees it if its
    process dies.

    Raises:
        NodeError: if the cache cannot be written. Errors of ``build`` that name a file elsewhere, such as one that it
            reads, pass unchanged.
    """
    place = cache_root() / kind / key
    if place.is_dir():
        return place
    with writable(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _held(FileLock(place.parent / f"{key}.lock"), kind):
            if not place.is_dir():
                for left in place.parent.glob(f".{key}.*"):  # of a killed process, because we hold the lock
                    shutil.rmtree(left)
                with written_aside(place) as aside:
                    build(aside)
    return place


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hex.

    It is cached by the file's path, size and modification time, so the next process reads nothing large.

    Raises:
        SponError: if the file cannot be read, or the cache cannot be written.
    """
    with _readable(file):
        file = file.resolve()
        stat = file.stat()

    def build(directory: Path) -> None:
        with _readable(file), file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        (directory / "sha256").write_text(digest)

    key = content_key(str(file), stat.st_size, stat.st_mtime_ns)
    return (cached("hashes", key, build) / "sha256").read_text()


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SponError(f"a file of a model or corpus must be readable, but {error.strerror} (at {file})") from error


def cached_together(
    kind: str, key: str, builds: Sequence[Callable[[Path], None]], merge: Callable[[list[Path], Path], None]
) -> Path:
    """The cached directory of a key, merged from parts that all processes asking for it build in parallel.

    Args:
        kind: folder of the cache.
        key: name of the directory (``content_key``).
        builds: one function per part, which fills its directory. A part that another process builds is left to it.
        merge: fills the key's directory from those of the parts, which are then removed.
    """
    place, names = cache_root() / kind / key, [f"part{number}-{key}" for number in range(len(builds))]

    def unless_merged(build: Callable[[Path], None], directory: Path) -> None:
        if not place.is_dir():  # another process may merge it while this one waits
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
    """Hold a lock, and report the wait if another process has it."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waiting for the {kind} that another process is building")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def written_aside(place: Path) -> Iterator[Path]:
    """A fresh directory that takes the name ``place`` if the block ends without an exception, and is removed otherwise.

    Nobody ever sees a half-written ``place``. An existing one is replaced, and restored if that fails.
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
    """Make a directory readable by others and sync it to disk.

    mkdtemp and safetensors hide their files from the user's group. Without the sync, a power loss could leave the name
    with half of the content.
    """
    for path in (*directory.rglob("*"), directory):
        path.chmod(0o755 if path.is_dir() else 0o644)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename(new: Path, place: Path) -> None:
    """Rename a directory to ``place``, and only then remove the one that had the name."""
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
    *(errno.ESTALE, errno.EIO, errno.ENOTCONN),  # a lost NFS or bucket mount
}


def make_writable(directory: Path) -> None:
    """Create a directory for results, unless it exists, and write a file into it that is removed at once.

    Raises:
        NodeError: if that fails.
    """
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass


@contextmanager
def writable(where: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a lost network disk into one clear line.

    An error that names a file elsewhere is not about the output, and passes unchanged.

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
        if number is not None and (number in _UNWRITABLE or _lost_its_directory(error)):
            raise NodeError(f"the output directory must be writable, but {os.strerror(number)} (at {where})") from error
        raise


def _is_elsewhere(error: OSError | SafetensorError, where: Path) -> bool:
    """Whether an error names a file that is neither in the directory nor above it."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str):
        return False
    file, directory = Path(named).absolute(), where.absolute()
    return directory not in (file, *file.parents) and file not in directory.parents


def _lost_its_directory(error: OSError | SafetensorError) -> bool:
    """Whether an error names a file whose directory is gone, as after somebody removed it."""
    named = getattr(error, "filename", None)
    return isinstance(error, FileNotFoundError) and isinstance(named, str) and not Path(named).parent.is_dir()


def _errno(error: OSError | SafetensorError) -> int | None:
    """The error number, which safetensors gives only in its message."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None
