"""File hashes: each file is read whole, once, and its hash is cached."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_spaces.errors import SponError
from trainables.cache import cache_root, cached, content_key

_KIND, _ENTRY = "hashes", "sha256"


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hex.

    The cache key is the file's path, size and modification time, so the next process reads nothing large. A damaged
    cache entry is rebuilt.

    Raises:
        SponError: if the file cannot be read, or the cache cannot be written.
    """
    with _readable(file):
        file = file.resolve()
        stat = file.stat()
    key = content_key(str(file), stat.st_size, stat.st_mtime_ns)
    place = cache_root() / _KIND / key
    if place.is_dir() and not _is_whole(place):
        shutil.rmtree(place)
    return (cached(_KIND, key, lambda directory: _hash(file, directory)) / _ENTRY).read_text()


def _is_whole(place: Path) -> bool:
    entry = place / _ENTRY
    return entry.is_file() and re.fullmatch(rb"[0-9a-f]{64}", entry.read_bytes()) is not None


def _hash(file: Path, directory: Path) -> None:
    with _readable(file), file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (directory / _ENTRY).write_text(digest)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SponError(f"a file of a model or corpus must be readable, but {error.strerror} (at {file})") from error
