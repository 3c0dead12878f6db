import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from sweep.store.lock import driver_of, driving, stop_driver

_DRIVE = """
import sys
from pathlib import Path
from sweep.store.lock import driving

with driving(Path(sys.argv[1])):
    print("in", flush=True)
    input()
"""


@pytest.fixture
def other(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that drives the sweep."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", _DRIVE, str(tmp_path)], text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_a_second_driver_is_told_who_holds_the_sweep(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    holder = driver_of(tmp_path)
    assert holder is not None
    assert holder.pid == other.pid
    said = rf"another driver holds this sweep: process {other.pid} on .*python"
    with pytest.raises(SponError, match=said), driving(tmp_path):
        raise AssertionError
    other.communicate("\n")
    assert driver_of(tmp_path) is None


def test_a_driver_that_was_killed_holds_nothing(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    other.kill()
    other.wait()
    assert driver_of(tmp_path) is None
    with driving(tmp_path):
        pass


def test_a_sweep_that_nobody_ever_drove_has_no_driver(tmp_path: Path) -> None:
    assert driver_of(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_driver_is_stopped_as_by_ctrl_c_and_is_waited_for(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    stopped = stop_driver(tmp_path)
    assert stopped is not None
    assert stopped.pid == other.pid
    assert driver_of(tmp_path) is None
    assert stop_driver(tmp_path) is None


def test_a_driver_on_another_machine_is_named_and_left_alone(
    tmp_path: Path, other: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.store.lock.gethostname", lambda: "elsewhere")
    with pytest.raises(SponError, match=rf"must be stopped on its own machine: `kill {other.pid}` on "):
        stop_driver(tmp_path)
    other.communicate("\n")


def test_a_driver_that_does_not_stop_is_named_and_not_waited_for_for_ever(
    tmp_path: Path, other: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.store.lock._STOP_SECONDS", 0.0)
    monkeypatch.setattr("sweep.store.lock.os.kill", lambda pid, number: None)
    with pytest.raises(SponError, match=rf"(?s)must stop within 0 s, but process {other.pid} on .* has not yet"):
        stop_driver(tmp_path)
    other.communicate("\n")
