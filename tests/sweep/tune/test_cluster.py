"""Places for trials, on a real Ray whose autoscaler is Ray's own and whose nodes are processes on this machine."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from search_spaces.config import ResourcesConfig
from search_spaces.errors import SponError
from sweep.tune import cluster
from sweep.tune.cluster import Autoscaler, at_once, start_ray
from sweep.tune.nodes import places
from tests.services import free_port, kill_ray_node, start_ray_node

HEAD, HEAD_ID = "ray.head.default", "f" * 51 + "00000"  # as the provider of nodes that are processes has them
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
NOTHING = (
    "initialization_commands setup_commands head_setup_commands worker_setup_commands head_start_ray_commands "
    "worker_start_ray_commands cluster_synced_files rsync_exclude rsync_filter"
)
"""What the autoscaler wants to be there, which a cloud's defaults would fill in."""
GIB = 2.0**30
A100 = ResourcesConfig(accelerator_type="A100")
ASKED = "a node must have what a trial asks for, CPU 1, GPU 1"


def config(address: str) -> dict[str, object]:
    """A head without a place, and a type of node with an A100 that is started when it is asked for."""
    types = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "a100": {"resources": {"CPU": 1, "accelerator_type:A100": 1}, "node_config": {}, "max_workers": 2},
    }
    provider = {"type": "external", "module": PROVIDER, "launch_multiple": True, "gcs_address": address}
    return {
        "cluster_name": "growing",
        "max_workers": 2,
        "provider": provider | {"head_node_id": HEAD_ID},
        "available_node_types": types,
        "head_node_type": HEAD,
        **{key: [] for key in NOTHING.split()},
        "file_mounts_sync_continuously": False,
        "file_mounts": {},
        "auth": {},
        "upscaling_speed": 1,
        "idle_timeout_minutes": 5,
    }


@pytest.fixture(scope="module")
def growing() -> Iterator[str]:
    """Address of a cluster that grows."""
    session = tempfile.mkdtemp(prefix="grow")  # short: sockets are under it
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    file = Path(session) / "cluster.json"
    file.write_text(json.dumps(config(address)))
    ids = dict.fromkeys(("RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_CLOUD_INSTANCE_ID"), HEAD_ID)
    known = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": HEAD}
    fast = {"AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    options = ["--num-cpus=0", "--include-dashboard=false", f"--port={address.partition(':')[2]}"]
    start_ray_node(session, ids | known | fast, "--head", *options, f"--autoscaling-config={file}")
    yield address
    ray.shutdown()
    kill_ray_node(session)


@pytest.mark.ray
def test_what_no_node_type_has_is_refused_with_what_was_asked_and_what_there_is(growing: str) -> None:
    with pytest.raises(SponError, match=rf"{ASKED}, but no node that the autoscaler can add has it.*CPU 0, GPU 0"):
        start_ray(ResourcesConfig(gpus_per_trial=1), growing)
    assert not ray.is_initialized()


@pytest.mark.ray
def test_memory_that_no_node_has_is_refused(growing: str) -> None:
    with pytest.raises(SponError, match=r"CPU 1, GPU 0, 1000\.0 GiB, but no node .*: CPU 0, GPU 0, [0-9.]+ GiB"):
        start_ray(ResourcesConfig(memory_gib=1000), growing)


@pytest.mark.ray
def test_a_cluster_without_an_autoscaler_has_what_it_has(growing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_autoscaler", lambda: Autoscaler(False, {}, (), ()))
    monkeypatch.setattr(cluster, "_SILENT_SECONDS", 0)
    with pytest.raises(SponError, match=f"{ASKED}, but there is no autoscaler, and the nodes have: CPU 0, GPU 0"):
        start_ray(ResourcesConfig(gpus_per_trial=1), growing)


@pytest.mark.ray
def test_a_node_that_is_on_its_way_is_waited_for_with_news(
    growing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.01)  # a node that is a process may be there within two seconds
    start_ray(A100, growing)
    out = capsys.readouterr().out
    assert "s for a node with CPU 1, GPU 0, A100; on their way: " in out
    assert places(A100) == at_once(A100) == 1
    assert at_once(A100.model_copy(update={"max_concurrent": 2})) == 2  # it grows to it


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of two A100s and one without a GPU, of which one node has gone."""
    big, small = {"CPU": 4.0, "GPU": 2.0, "memory": 8 * GIB, "accelerator_type:A100": 1.0}, {"CPU": 8.0, "memory": GIB}
    listed = [(big, True), (big, True), (small, True), (big, False)]
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"NodeID": "1", "Resources": node, "Alive": alive} for node, alive in listed]
    )


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("asked", "fit"),
    [
        ({}, 16),
        ({"cpus_per_trial": 3}, 4),  # one on each large node, two on the small one: a trial cannot be split
        ({"gpus_per_trial": 0.5}, 8),
        ({"gpus_per_trial": 1, "cpus_per_trial": 4}, 2),
        ({"accelerator_type": "A100"}, 8),
        ({"accelerator_type": "H100"}, 0),
        ({"gpus_per_trial": 0.5, "max_concurrent": 3}, 3),
        ({"memory_gib": 3}, 4),  # two on each large node
        ({"memory_gib": 0.5}, 10),  # four of each large node's CPUs, and two on the small one
        ({"memory_gib": 9}, 0),
    ],
)
def test_places_are_counted_node_by_node(asked: dict[str, object], fit: int) -> None:
    assert places(ResourcesConfig.model_validate(asked)) == fit


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"gpus_per_trial": 1, "accelerator_type": "H100"},
            "CPU 1, GPU 1, H100, but the nodes have: 2 x (CPU 4, GPU 2, A100); CPU 8, GPU 0",
        ),
        (
            {"memory_gib": 9},
            "CPU 1, GPU 0, 9.0 GiB, but the nodes have: 2 x (CPU 4, GPU 2, 8.0 GiB, A100); CPU 8, GPU 0, 1.0 GiB",
        ),
    ],
)
def test_a_refusal_lists_nodes_by_what_they_have_and_the_memory_where_it_was_asked(
    asked: dict[str, object], says: str
) -> None:
    said = str(cluster._impossible(ResourcesConfig.model_validate(asked).bundle, "the nodes have"))
    assert f"asks for, {says}" in said


def test_nodes_that_were_asked_for_and_nodes_that_start_are_on_their_way() -> None:
    reply = GetClusterStatusReply()
    state = reply.autoscaling_state
    state.autoscaler_state_version = 1
    state.pending_instance_requests.add(ray_node_type_name="a100", count=2)
    state.pending_instances.add(ray_node_type_name="a100")
    assert cluster._understood(reply)[:2] == (True, {"a100": 3})


def test_the_news_has_the_last_failure() -> None:
    said = Autoscaler(True, {"a100": 3}, ("no quota", "no spot capacity"), ())
    news = "waiting 31 s for a node with CPU 1, GPU 1; on their way: 3 x a100; last failure: no spot capacity"
    assert cluster._news({"CPU": 1, "GPU": 1}, said, 31.2) == news
    assert cluster._news({"CPU": 1}, said._replace(coming={}, failed=()), 2.0).endswith("on their way: none")
