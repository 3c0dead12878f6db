"""Whose fault it was that a trial was lost, without Ray: what Ray says of it, and of its nodes, is made up."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from search_spaces.config import ResourcesConfig
from search_spaces.errors import NodeError
from sweep.tune import cluster, nodes
from sweep.tune.nodes import Nodes

Lost = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}} for node in ("bad", "good")]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: listed)
    monkeypatch.setattr(nodes, "_taken_out", set())


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    """Makes a trial of Ray's that met an error."""

    def make(error: Exception, name: str = "a") -> SimpleNamespace:
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(cloudpickle.dumps(error))
        metadata = SimpleNamespace(num_failures=1)
        return SimpleNamespace(pickled_error_file=str(file), run_metadata=metadata, config={"name": name})

    return make


def full_disk(node: str = "bad") -> RayTaskError:
    fault = NodeError("the disk must have room for the output")
    fault.node = node
    return RayTaskError("train", "Traceback", fault)


NODE_DIED = RayActorError("id", "The actor died because its node has died. Node Id: 1")
WORKER_DIED = ActorDiedError()


def test_a_node_is_taken_out_after_three_trials_in_a_row(lost: Lost) -> None:
    watched = Nodes(ResourcesConfig())
    assert [watched.recovered(lost(full_disk())) for _ in range(2)] == [None, None]
    assert nodes.selector() == {}
    out = watched.recovered(lost(full_disk()))
    assert out == "3 trials in a row failed on node bad, which is now excluded: the disk must have room for the output"
    assert nodes.selector() == {"ray.io/node-id": "!in(bad)"}
    assert nodes.places(ResourcesConfig()) == 2


def test_another_sweep_of_this_process_starts_with_all_nodes(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Nodes(ResourcesConfig())
    for _ in range(3):
        watched.recovered(lost(full_disk()))
    assert nodes.places(ResourcesConfig()) == 2
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    cluster.start_ray(ResourcesConfig())
    assert nodes.places(ResourcesConfig()) == 4


def test_a_result_between_two_faults_starts_the_count_again(lost: Lost) -> None:
    watched = Nodes(ResourcesConfig())
    for _ in range(4):
        watched.recovered(lost(full_disk()))
        watched.recovered(lost(full_disk()))
        watched.worked("bad")
    assert nodes.selector() == {}


def test_the_last_node_stays(lost: Lost) -> None:
    watched = Nodes(ResourcesConfig())
    outs = [watched.recovered(lost(full_disk(node))) for node in ("bad", "good") for _ in range(4)]
    assert [bool(out) for out in outs] == [False, False, True] + [False] * 5
    assert nodes.selector() == {"ray.io/node-id": "!in(bad)"}


def test_a_trial_that_a_bad_node_failed_is_run_again_a_few_times(lost: Lost) -> None:
    watched = Nodes(ResourcesConfig())
    assert [watched.gave_up(lost(full_disk(), "b"))[0] for _ in range(4)] == [True, True, True, False]


def test_a_trial_that_the_only_node_failed_has_failed(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    only = [{"NodeID": "bad", "Alive": True, "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: only)
    assert Nodes(ResourcesConfig()).gave_up(lost(full_disk())) == (False, None)


def test_a_node_that_dies_costs_its_trial_no_failure(lost: Lost) -> None:
    trial = lost(NODE_DIED)
    Nodes(ResourcesConfig()).recovered(trial)
    assert trial.run_metadata.num_failures == 0
    assert Nodes(ResourcesConfig()).gave_up(trial) == (True, None)


def test_a_worker_that_no_longer_answers_is_excused_a_few_times(lost: Lost) -> None:
    watched, trial = Nodes(ResourcesConfig()), lost(ActorUnavailableError("socket closed", b"1" * 16))
    watched.recovered(trial)
    assert trial.run_metadata.num_failures == 0
    assert [watched.gave_up(trial)[0] for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("error", [WORKER_DIED, RayTaskError("train", "Traceback", KeyError("threads"))])
def test_a_worker_that_dies_and_a_bug_are_failures_of_the_trial(lost: Lost, error: Exception) -> None:
    trial = lost(error)
    Nodes(ResourcesConfig()).recovered(trial)
    assert trial.run_metadata.num_failures == 1
    assert Nodes(ResourcesConfig()).gave_up(trial) == (False, None)
