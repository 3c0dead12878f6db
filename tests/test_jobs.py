"""``ray job submit`` to three nodes on one machine, with a token, as ``cluster.yaml`` sets them up."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep.store.folder import SweepFolder
from tests.services import A100, free_port, kill_ray_node, start_ray_node
from tests.swept import ROOT, write_space

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("aiohttp_cors") is None, reason="requirements-cluster.txt is not installed"),
]

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Cluster:
    """A job server and the environment with its token."""

    url: str
    env: dict[str, str]

    def submit(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        command = [PROGRAMS / "ray", "job", "submit", "--address", self.url, "--working-dir", ".", "--", *words]
        env = os.environ | self.env | env
        return subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without a place for trials, and two nodes with one each, which say that they have an A100."""
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PATH": path}
    port, dashboard = free_port(), free_port()
    head = ("--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=0")
    worker = (f"--address=127.0.0.1:{port}", "--num-cpus=1", A100)
    places = [tempfile.mkdtemp(prefix="job") for _ in range(3)]  # short: sockets are under them
    try:
        for place, node in zip(places, (head, worker, worker), strict=True):
            agent = f"--dashboard-agent-listen-port={free_port()}"
            start_ray_node(place, env, *node, agent, "--object-store-memory=100000000")
        yield Cluster(f"http://127.0.0.1:{dashboard}", env)
    finally:
        for place in reversed(places):
            kill_ray_node(place)


def test_a_job_without_the_token_is_refused_and_does_not_run(cluster: Cluster, tmp_path: Path) -> None:
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        ran = cluster.submit("touch", tmp_path / "ran", **wrong)
        assert ran.returncode != 0
        assert "authentication token" in ran.stderr
    assert not (tmp_path / "ran").exists()


def test_a_job_runs_a_sweep_on_the_other_nodes(cluster: Cluster, tiny_space: dict[str, object], tmp_path: Path) -> None:
    there = {"resources": {"accelerator_type": "A100"}}  # a Ray of the driver's own would not have it
    space = write_space(tiny_space | there | {"allocations": ["BASELINE-TEAL", "UNIF-ALL"]}, tmp_path)
    sweep = ("python", "-m", "sweep", "run", space, "--address", "auto")
    ran = cluster.submit(*sweep, "--storage", tmp_path / "runs")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = SweepFolder(tmp_path / "runs" / "tiny").trials
    assert [trial.state for trial in trials] == ["finished", "finished"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("spon-sweep").experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(["tiny", *(trial.path.name for trial in trials)])
