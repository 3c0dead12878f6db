"""Services of a cluster as processes on loopback: an MLflow server, and PostgreSQL where it is installed."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

PASSWORD = "planted-password-of-a-database"
A100 = '--resources={"accelerator_type:A100": 1}'
"""Option of a node that makes Ray take it for one with an A100."""
_STARTED_SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(backend: str, directory: Path, port: int) -> Iterator[subprocess.Popen]:
    """A server that answers when this returns, and has ended with all its workers after the block."""
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend]
    words += ["--artifacts-destination", str(directory), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (directory / "server.txt").open("a") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        _until_it_answers(server, f"http://127.0.0.1:{port}/health", directory / "server.txt")
        yield server
    finally:
        kill_group(server)


def start_ray_node(place: str, env: Mapping[str, str], *options: str) -> None:
    """A node of a Ray cluster with a directory of its own: where two share one, jobs clear each other's files away."""
    words = [Path(sys.executable).with_name("ray"), "start", *options, f"--temp-dir={place}"]
    subprocess.run(words, env=os.environ | env, check=True, capture_output=True, timeout=120)


def kill_ray_node(place: str) -> None:
    """End the processes that were started under a directory of their own, at once, and take the directory away."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if place in (process / "cmdline").read_text() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(place, ignore_errors=True)


def kill_group(process: subprocess.Popen) -> None:
    """End a process that was started in a session of its own, and its children, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def _until_it_answers(server: subprocess.Popen, url: str, log: Path) -> None:
    until = time.monotonic() + _STARTED_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.2)
    raise AssertionError(f"no server at {url}: {log.read_text()[-2000:]}")


def postgres_programs() -> Path | None:
    """Where PostgreSQL's programs are; None without them or a driver."""
    if importlib.util.find_spec("psycopg") is None:
        return None
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    return Path(found).resolve().parent if found else None


@contextlib.contextmanager
def postgres(programs: Path, *databases: str) -> Iterator[str]:
    """A server with some databases that wants a password; the start of their URLs, for user ``spon``."""
    place, port = Path(tempfile.mkdtemp(prefix="pg")), free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    secret = place / "password"
    secret.write_text(PASSWORD)
    if as_user:
        shutil.chown(place, "postgres")
        shutil.chown(secret, "postgres")

    def call(program: str, *words: str) -> None:
        env = os.environ | {"PGPASSWORD": PASSWORD}
        # No pipe: the server would inherit it and hold it open
        with (place.parent / f"{place.name}.txt").open("a") as log:
            subprocess.run([*as_user, programs / program, *words], cwd="/", env=env, check=True, stdout=log, stderr=log)

    data = str(place / "data")
    call("initdb", "--pgdata", data, "--username=spon", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {place}"
    call("pg_ctl", "--pgdata", data, "--log", str(place / "log"), "--options", options, "--wait", "start")
    try:
        for database in databases:
            call("createdb", "--host=127.0.0.1", f"--port={port}", "--username=spon", database)
        yield f"postgresql://spon@127.0.0.1:{port}/"
    finally:
        call("pg_ctl", "--pgdata", data, "--mode=immediate", "stop")
        shutil.rmtree(place)
        (place.parent / f"{place.name}.txt").unlink()
