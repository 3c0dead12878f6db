"""The cache: whole directories or none, and one line for a disk that will not take them."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from search_spaces.errors import SponError
from trainables.cache import cache_root, cached, cached_together, content_key, file_sha256, writable, written_aside


def build_hello(directory: Path) -> None:
    (directory / "hello.txt").write_text("hello")


def fail(error: Exception) -> None:
    raise error


def test_the_cache_is_where_the_environment_says_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("SPON_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("SPON_CACHE")
    assert cache_root().name == "spon-sweep"


def test_keys_differ_with_content_and_not_with_the_order_of_keys():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key("a", "b") != content_key("ab")


def test_several_that_ask_at_once_build_once(spon_cache):
    built = []

    def build(directory: Path) -> None:
        built.append(directory)
        build_hello(directory)

    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: cached("texts", "k", build), range(8)))
    assert len(built) == 1
    assert len(set(places)) == 1


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(spon_cache):
    def half(directory: Path) -> None:
        build_hello(directory)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        cached("texts", "k", half)
    assert [path.name for path in (spon_cache / "texts").iterdir()] == ["k.lock"]
    assert (cached("texts", "k", build_hello) / "hello.txt").exists()


BUILD_FOR_EVER = """
import time
from trainables.cache import cached

def build(directory):
    (directory / "half").touch()
    print("building", flush=True)
    time.sleep(600)

cached("things", "key", build)
"""


def test_the_lock_of_a_process_that_was_killed_is_taken_over(spon_cache):
    holder = subprocess.Popen([sys.executable, "-c", BUILD_FOR_EVER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "building\n"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(cached, "things", "key", lambda directory: (directory / "whole").touch())
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        holder.kill()
        holder.wait()
        place = waiting.result(timeout=30)
    assert [file.name for file in place.iterdir()] == ["whole"]
    assert [entry.name for entry in place.parent.glob(".key.*")] == []


def test_a_directory_written_aside_replaces_the_old_one(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "old.txt").write_text("old")
    with written_aside(tmp_path / "place") as aside:
        build_hello(aside)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["hello.txt"]


def test_a_directory_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    (place / "old.txt").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == place and (path / "hello.txt").exists():
            raise OSError(errno.EIO, "lost", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="lost"), written_aside(place) as aside:
        build_hello(aside)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (place / "old.txt").read_text() == "old"


def test_the_disk_has_the_files_before_they_have_their_name(tmp_path, monkeypatch):
    place, synced = tmp_path / "place", []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        assert not place.exists()
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with written_aside(place) as aside:
        build_hello(aside)
        (aside / "inner").mkdir()
        (aside / "inner" / "more.txt").write_text("more")
    assert {"hello.txt", "inner", "more.txt", aside.name} <= set(synced)


def test_a_directory_written_aside_can_be_read_by_others(tmp_path):
    with written_aside(tmp_path / "place") as aside:
        save_file({"x": torch.zeros(1)}, aside / "tensors.safetensors")  # which safetensors makes for its owner alone
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "place" / "tensors.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_that_says_what_is_free(spon_cache, error):
    with pytest.raises(SponError, match=r"must have room for the output, but \d+ MiB are free") as caught:
        cached("texts", "k", lambda directory: fail(error))
    assert "\n" not in str(caught.value)


def test_a_cache_under_a_file_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPON_CACHE", str(tmp_path / "file"))
    with pytest.raises(SponError, match="the output directory must be writable, but Not a directory"):
        cached("texts", "k", build_hello)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_missing_permission_a_lost_disk_and_a_removed_directory_are_one_line(tmp_path, number):
    said = f"the output directory must be writable, but {os.strerror(number)}"
    with pytest.raises(SponError, match=said), writable(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(SponError, match="must be writable, but No such file or directory"), writable(tmp_path):
        (tmp_path / "gone" / "file").write_text("")


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "file"), SafetensorError("not ours")])
def test_other_errors_stay_what_they_are(tmp_path, error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(type(error)), writable(tmp_path):
        raise error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_input_that_cannot_be_read_is_not_taken_for_the_output(spon_cache, tmp_path, number):
    error = OSError(number, os.strerror(number), str(tmp_path / "input.parquet"))
    with pytest.raises(OSError, match=r"input\.parquet") as caught:
        cached("texts", "k", lambda directory: fail(error))
    assert caught.value is error


def part(name):
    return lambda directory: (directory / "text").write_text(name)


def joined(parts, directory):
    (directory / "text").write_text("".join((part / "text").read_text() for part in parts))


def test_parts_are_merged_in_their_order_and_only_the_whole_stays(spon_cache):
    place = cached_together("words", "key", [part("a"), part("b"), part("c")], joined)
    assert (place / "text").read_text() == "abc"
    assert [path.name for path in (spon_cache / "words").iterdir() if path.is_dir()] == ["key"]
    assert cached_together("words", "key", [pytest.fail], joined) == place


def test_a_part_that_another_process_builds_is_left_to_it_until_the_end(spon_cache):
    order, begun = [], threading.Event()

    def slow(directory):
        begun.set()
        while order != ["second"]:
            time.sleep(0.01)
        part("a")(directory)
        order.append("first")

    def second(directory):
        part("b")(directory)
        order.append("second")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cached_together, "words", "key", [slow, second], joined)
        begun.wait()
        place = cached_together("words", "key", [slow, second], joined)
        assert other.result() == place
    assert order == ["second", "first"]
    assert (place / "text").read_text() == "ab"


# Hashes of files


@pytest.fixture
def file(tmp_path: Path, spon_cache: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights " * 1000)
    return file


def test_a_file_is_hashed_whole_and_read_once_by_whatever_path(file, tmp_path, monkeypatch):
    assert file_sha256(file) == hashlib.sha256(b"weights " * 1000).hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: pytest.fail("read again"))
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    assert file_sha256(file) == file_sha256(tmp_path / "link") == file_sha256(Path(file.name))


@pytest.mark.parametrize("content", [b"longer " * 2000, b"as long." * 1000], ids=["longer", "as long"])
def test_a_file_that_changed_is_read_again(file, content):
    before, stat = file_sha256(file), file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_sha256(file) == hashlib.sha256(content).hexdigest() != before


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, spon_cache):
    with pytest.raises(SponError, match=r"must be readable, but Is a directory \(at [^\n]*\)$"):
        file_sha256(tmp_path)
