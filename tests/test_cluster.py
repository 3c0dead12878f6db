"""The cluster's YAML, against the launcher's own schema and against what the launcher does not look at. No cloud."""

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


GCP, AWS = ROOT / "cluster.yaml", ROOT / "docs" / "cluster-aws.yaml"


@pytest.fixture(scope="module", params=[GCP, AWS], ids=["gcp", "aws"])
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def raw(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


@pytest.fixture(scope="module")
def prepared(raw: dict[str, Any]) -> dict[str, Any]:
    return prepare_config(copy.deepcopy(raw))


def test_the_launcher_takes_it(prepared):
    validate_config(prepared)


def test_the_launchers_check_is_not_empty(prepared):
    with pytest.raises(ValidationError, match="nosuch"):
        validate_config(prepared | {"nosuch": 1})


def test_it_has_a_name_and_a_head_of_its_own(raw):
    assert raw["cluster_name"] == "spon-sweep"  # the launcher would fill in one that clusters share
    assert raw["head_node_type"] in raw["available_node_types"]


def workers(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in raw["available_node_types"].items() if name != raw["head_node_type"]}


def test_workers_are_a100s_that_start_at_none(raw):
    for node in workers(raw).values():
        assert node["min_workers"] == 0 < node["max_workers"]
        assert node["resources"]["accelerator_type:A100"] == 1
        assert node["resources"]["memory"] == 56 * 2**30 * node["resources"]["GPU"]  # without it no node has any
        machine = node["node_config"].get("machineType") or node["node_config"]["InstanceType"]
        assert machine.startswith({1: "a2-", 8: "p4d"}[node["resources"]["GPU"]])


def test_spot_comes_before_what_is_always_there(raw):
    spot, always = raw["available_node_types"]["a100_spot"], raw["available_node_types"]["a100_on_demand"]
    assert "spot" in str(spot["node_config"]).lower()
    assert "spot" not in str(always["node_config"]).lower()
    assert spot["priority"] > always.get("priority", 0)


def test_a_disk_is_in_the_clusters_zone():
    raw = yaml.safe_load(GCP.read_text())
    zone = raw["provider"]["availability_zone"]
    assert zone.startswith(raw["provider"]["region"])
    for node in raw["available_node_types"].values():
        (disk,) = node["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"].startswith(f"zones/{zone}/")


def test_no_trial_lands_on_the_head(raw):
    assert raw["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_every_node_asks_for_the_shared_token(raw):
    assert any("export RAY_AUTH_MODE=token" in command for command in raw["initialization_commands"])
    assert raw["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_listens_on_loopback_only(raw):
    (start,) = [command for command in raw["head_start_ray_commands"] if "--head" in command]
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


def test_no_port_is_opened(raw):
    text = yaml.safe_dump(raw)
    assert not re.search(r"firewall|IpPermissions|accessConfigs|(?<!\d)0\.0\.0\.0", text)


def test_what_is_installed_is_requirements_txt(raw):
    for name in ("requirements.txt", "requirements-cluster.txt"):
        assert (ROOT / raw["file_mounts"][f"/home/ubuntu/{name}"]).is_file()
    (common,) = [command for command in raw["setup_commands"] if "pip install" in command]
    assert common.endswith("--requirement ~/requirements.txt --requirement ~/requirements-cluster.txt")
    (head,) = [command for command in raw["head_setup_commands"] if "pip install" in command]
    assert head.split()[-1] in ("google-api-python-client", "boto3")  # for the launcher


def test_nodes_share_nothing_but_a_bucket(raw, file):
    assert re.search(r"--storage (gs|s3)://BUCKET/results", file.read_text())
    assert not re.search("nfs|exports|rsync", file.read_text())
    for node in workers(raw).values():
        assert {"serviceAccounts", "IamInstanceProfile"} & node["node_config"].keys()


def test_caches_are_on_the_nodes_own_disk(raw):
    (caches,) = [command for command in raw["initialization_commands"] if "SPON_CACHE" in command]
    assert re.findall(r"(SPON_CACHE|HF_HOME)=(\S+?)['\s]", caches) == [
        ("SPON_CACHE", "$HOME/.cache/spon-sweep"),
        ("HF_HOME", "$HOME/.cache/huggingface"),
    ]


def test_every_command_is_sound_shell(raw):
    for command in (command for key, listed in raw.items() if key.endswith("_commands") for command in listed):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, (command, checked.stderr)


@pytest.fixture(scope="module")
def with_image(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """The cluster with the lines for an image, which are comments, in place of those that they name."""
    lines = re.findall(r"^# ((?:docker|[a-z_]+_commands|file_mounts): .*)$", file.read_text(), re.MULTILINE)
    return raw | yaml.safe_load("\n".join(lines))


def test_the_launcher_takes_it_with_an_image(with_image):
    validate_config(prepare_config(copy.deepcopy(with_image)))
    assert with_image["docker"]["image"] in (ROOT / "Dockerfile").read_text()


def test_a_container_is_given_what_a_node_is(with_image, raw):
    """The home is the image's user's, and the shell of the node's user is not read."""
    assert with_image["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert with_image["docker"]["run_options"] == ["--env RAY_AUTH_MODE=token"]
    assert set(with_image["setup_commands"]) < set(raw["setup_commands"])
