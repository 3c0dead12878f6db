"""Processes that are forked with their libraries: whoever starts one sees what ``python -m`` would show."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces import __version__
from tests.services import free_port
from tests.warm import command_of, in_place_of

START_SECONDS = 120


def until(holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(port: int) -> subprocess.Popen:
    """A process that runs until it is told to end."""
    words = command_of("http.server", str(port), "--bind", "127.0.0.1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: answers(port))
    return process


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_its_streams_and_its_status_are_those_of_the_command(tmp_path: Path) -> None:
    said = subprocess.run(command_of("sweep", "--version"), capture_output=True, text=True, cwd=tmp_path)
    assert (said.returncode, said.stdout.strip(), said.stderr) == (0, __version__, "")
    refused = subprocess.run(command_of("sweep", "status", "nosuch"), capture_output=True, text=True, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: a sweep must exist in {tmp_path / 'runs'}, ")


def test_ctrl_c_reaches_it(server: subprocess.Popen) -> None:
    server.send_signal(signal.SIGINT)
    out, _ = server.communicate(timeout=START_SECONDS)
    assert (server.returncode, "Keyboard interrupt received" in out) == (0, True)


def test_a_signal_that_ends_it_is_its_status(server: subprocess.Popen) -> None:
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=START_SECONDS)
    assert server.returncode == -signal.SIGTERM


def test_it_does_not_outlive_a_kill(server: subprocess.Popen, port: int) -> None:
    server.kill()
    server.communicate(timeout=START_SECONDS)
    until(lambda: not answers(port))


@pytest.mark.parametrize("wanted", ['"py_executable": "/other/python"', '"command_prefix": ["nice"]'])
def test_a_worker_of_ray_that_wants_another_python_gets_it(wanted: str) -> None:
    words = ["worker.py", "--language=PYTHON", "--serialized-runtime-env-context={%s}"]
    assert in_place_of([word.replace("%s", "") for word in words])
    assert in_place_of([word.replace("%s", f'"py_executable": "{sys.executable}"') for word in words])
    assert not in_place_of([word.replace("%s", wanted) for word in words])
