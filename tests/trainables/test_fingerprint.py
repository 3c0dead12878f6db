"""Hashes of files: of all of their content, and read once."""

import hashlib
import os
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from trainables.fingerprint import file_sha256

CONTENT = b"weights " * 1000


@pytest.fixture
def file(tmp_path: Path, spon_cache: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


def entries(cache: Path) -> list[Path]:
    return list((cache / "hashes").glob("*/sha256"))


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: pytest.fail("read again"))


def test_the_hash_is_that_of_the_whole_content(file):
    assert file_sha256(file) == hashlib.sha256(CONTENT).hexdigest()


def test_a_file_is_read_once_by_whatever_path(file, tmp_path, monkeypatch):
    first = file_sha256(file)
    forbid_reading(monkeypatch)
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    assert file_sha256(file) == file_sha256(tmp_path / "link") == file_sha256(Path(file.name)) == first


@pytest.mark.parametrize("content", [CONTENT + b"!", CONTENT[:-1] + b"!"], ids=["longer", "as long"])
def test_a_file_that_changed_is_read_again(file, content):
    before = file_sha256(file)
    stat = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_sha256(file) == hashlib.sha256(content).hexdigest() != before


@pytest.mark.parametrize("damage", [b"", b"half", b"\xff" * 64], ids=str)
def test_a_damaged_entry_is_made_again(file, spon_cache, damage):
    before = file_sha256(file)
    (entry,) = entries(spon_cache)
    entry.write_bytes(damage)
    assert file_sha256(file) == before
    assert entry.read_text() == before


def test_an_entry_that_is_gone_is_made_again(file, spon_cache):
    before = file_sha256(file)
    (entry,) = entries(spon_cache)
    entry.unlink()
    assert file_sha256(file) == before


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, spon_cache):
    with pytest.raises(SponError, match=r"must be readable, but Is a directory \(at .*\)") as caught:
        file_sha256(tmp_path)
    assert "\n" not in str(caught.value)
