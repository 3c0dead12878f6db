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


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(raw: dict[str, Any]) -> dict[str, Any]:
    return prepare_config(copy.deepcopy(raw))


def commands(raw: dict[str, Any]) -> dict[str, list[str]]:
    return {key: value for key, value in raw.items() if key.endswith("_commands")}


def test_the_launcher_takes_it(prepared):
    validate_config(prepared)


def test_the_launchers_check_is_not_empty(prepared):
    with pytest.raises(ValidationError, match="nosuch"):
        validate_config(prepared | {"nosuch": 1})


def test_it_has_a_name_and_a_head_of_its_own(raw):
    assert raw["cluster_name"] == "spon-sweep"  # the launcher would fill in one that clusters share
    assert raw["head_node_type"] in raw["available_node_types"]


def test_workers_are_a100s_that_start_at_none(raw):
    workers = {name: node for name, node in raw["available_node_types"].items() if name != raw["head_node_type"]}
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers.values())
    assert all(node["resources"]["GPU"] == node["resources"]["accelerator_type:A100"] == 1 for node in workers.values())
    assert all(node["resources"]["memory"] == 56 * 2**30 for node in workers.values())  # without it no node has any
    assert all(node["node_config"]["machineType"].startswith("a2-") for node in workers.values())


def test_spot_comes_before_what_is_always_there(raw):
    types = raw["available_node_types"]
    models = {name: node["node_config"].get("scheduling", {}).get("provisioningModel") for name, node in types.items()}
    assert models == {"head": None, "a100_spot": "SPOT", "a100_on_demand": "STANDARD"}
    assert types["a100_spot"]["priority"] > types["a100_on_demand"].get("priority", 0)


def test_a_disk_is_in_the_clusters_zone(raw):
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
    installs = [c for listed in commands(raw).values() for c in listed if "pip install" in c]
    assert len(installs) == 2
    assert all("--requirement ~/requirements.txt" in command for command in installs)
    (common,) = [command for command in raw["setup_commands"] if "pip install" in command]
    assert common.endswith("--requirement ~/requirements.txt --requirement ~/requirements-cluster.txt")


def test_what_the_head_has_beyond_it_is_for_the_launcher(raw):
    (head,) = [command for command in raw["head_setup_commands"] if "pip install" in command]
    assert head.partition("requirements.txt ")[2].split() == ["google-api-python-client"]


def test_driver_and_workers_have_one_storage(raw):
    assert any("/mnt/results" in c and "/etc/exports" in c for c in raw["head_setup_commands"])
    assert any('mount --types nfs "$RAY_HEAD_IP:/mnt/results" /mnt/results' in c for c in raw["worker_setup_commands"])
    assert "--storage /mnt/results" in (ROOT / "cluster.yaml").read_text()


def test_caches_are_on_the_nodes_own_disk(raw):
    (caches,) = [command for command in raw["initialization_commands"] if "SPON_CACHE" in command]
    assert re.findall(r"(SPON_CACHE|HF_HOME)=(\S+?)['\s]", caches) == [
        ("SPON_CACHE", "$HOME/.cache/spon-sweep"),
        ("HF_HOME", "$HOME/.cache/huggingface"),
    ]


def test_every_command_is_sound_shell(raw):
    for listed in commands(raw).values():
        for command in listed:
            checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
            assert checked.returncode == 0, (command, checked.stderr)
