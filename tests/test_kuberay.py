"""The cluster on Kubernetes, against what else the project says. The operator's own schema is not at hand here."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.load import load_space

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "kuberay.yaml"
GIB = 2**30


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["spec"]


@pytest.fixture(scope="module")
def worker(job: dict[str, Any]) -> dict[str, Any]:
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    return group


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only


def test_its_ray_is_the_pinned_one(job):
    (pinned,) = re.findall(r"^ray\[tune\]==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert job["rayClusterSpec"]["rayVersion"] == pinned


def test_its_pods_run_the_image_of_the_dockerfile(job, worker):
    tags = re.findall(r"docker build --tag (\S+) \.", FILE.read_text())
    head = container(job["rayClusterSpec"]["headGroupSpec"])
    assert [head["image"], container(worker)["image"]] == 2 * tags


def test_a_trial_of_the_space_it_runs_fits_into_a_worker(job, worker):
    (space,) = re.findall(r"sweep run (\S+)", job["entrypoint"])
    limits = container(worker)["resources"]["limits"]
    has = {"CPU": limits["cpu"], "GPU": limits["nvidia.com/gpu"], "memory": float(limits["memory"][:-2]) * GIB}
    has |= json.loads(json.loads(worker["rayStartParams"]["resources"]))
    asks = load_space(ROOT / space, []).resources.bundle
    assert all(amount <= has[name] for name, amount in asks.items())


def test_workers_start_at_none_and_no_trial_lands_on_the_head(job, worker):
    assert worker["minReplicas"] == worker["replicas"] == 0 < worker["maxReplicas"]
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_every_node_asks_for_the_token(job):
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_pods_share_nothing_but_a_bucket(job, worker):
    assert re.findall(r"--storage (\S+)", job["entrypoint"]) == ["s3://BUCKET/results"]
    for group in (job["rayClusterSpec"]["headGroupSpec"], worker):
        assert "volumes" not in group["template"]["spec"]


@pytest.mark.parametrize(("status", "job_fails"), [(0, False), (1, False), (2, False), (3, True), (130, True)])
def test_what_another_cluster_would_not_mend_builds_none(job, status, job_fails):
    entrypoint = re.sub("python .*results", f"(exit {status})", job["entrypoint"])
    assert (subprocess.run(["bash", "-c", entrypoint]).returncode != 0) is job_fails
