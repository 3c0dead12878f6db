import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from trainables.demo.wheels import WheelFile, wheel_member


def test_takes_the_member_and_leaves_nothing_else(tmp_path: Path, add_wheel: Callable[..., str]) -> None:
    sha256 = add_wheel("words", "words/list.txt", b"alpha\nbeta\n")
    place = tmp_path / "out" / "list.txt"
    place.parent.mkdir()
    assert wheel_member(WheelFile("words==1.0", "words/list.txt", sha256), place) == place
    assert place.read_bytes() == b"alpha\nbeta\n"
    assert list(place.parent.iterdir()) == [place]


def test_asks_for_a_fixed_platform_on_any_machine(tmp_path: Path, add_wheel: Callable[..., str]) -> None:
    sha256 = add_wheel("words", "words/list.txt", b"alpha", tag="cp311-cp311-win_arm64")
    place = tmp_path / "list.txt"
    wheel_member(WheelFile("words==1.0", "words/list.txt", sha256, "win_arm64"), place)
    assert place.read_bytes() == b"alpha"


def test_refuses_a_member_with_another_hash(tmp_path: Path, add_wheel: Callable[..., str]) -> None:
    got = add_wheel("words", "words/list.txt", b"tampered")
    place = tmp_path / "list.txt"
    with pytest.raises(SponError, match=f"must have SHA-256 {'0' * 64}, but got {got}"):
        wheel_member(WheelFile("words==1.0", "words/list.txt", "0" * 64), place)


def test_names_a_missing_member(tmp_path: Path, add_wheel: Callable[..., str]) -> None:
    sha256 = add_wheel("words", "words/list.txt", b"alpha")
    with pytest.raises(SponError, match=r"must contain words/other\.txt, but it does not \(at words-1\.0"):
        wheel_member(WheelFile("words==1.0", "words/other.txt", sha256), tmp_path / "other.txt")


def test_gives_the_last_error_of_pip_in_one_line(tmp_path: Path, add_wheel: Callable[..., str]) -> None:
    with pytest.raises(SponError) as caught:
        wheel_member(WheelFile("absent==1.0", "absent/file", "0" * 64), tmp_path / "file")
    expected = "pip must be able to download absent==1.0, but it says: No matching distribution found for absent==1.0"
    assert str(caught.value) == expected


def test_gives_the_last_line_of_a_traceback_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n"
    failed = subprocess.CompletedProcess([], 2, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: failed)
    with pytest.raises(SponError, match=r"but it says: OSError: \[Errno 28\] No space left on device$"):
        wheel_member(WheelFile("words==1.0", "words/list.txt", "0" * 64), tmp_path / "list.txt")
