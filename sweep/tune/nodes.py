"""Decides whether a trial or its node caused a failure, and excludes bad nodes."""

from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial
from ray.util.placement_group import PlacementGroup, placement_group

from search_spaces.config import ResourcesConfig
from search_spaces.errors import NodeError

_IN_A_ROW = 3
"""Consecutive faults after which a node is excluded."""
EXCUSED = 3
"""How often a trial is excused for what may be its node's fault."""
_NODE_DIED = "its node has died"
"""Ray's phrase for a worker that was lost with its node."""

_taken_out: set[str] = set()
"""Ray's ids of nodes that this driver has excluded."""


def take_back() -> None:
    """Forget excluded nodes, because a new sweep begins."""
    _taken_out.clear()


class Place(tune.PlacementGroupFactory):
    """Room for one trial on any node that is not excluded."""

    def to_placement_group(self) -> PlacementGroup:
        """Request it from Ray."""
        labels = selector()
        place: PlacementGroup = placement_group(self.bundles, bundle_label_selector=[labels] if labels else None)
        return place


def selector() -> dict[str, str]:
    """Return Ray's label selector for nodes that may get work; empty if all may."""
    return {"ray.io/node-id": f"!in({','.join(sorted(_taken_out))})"} if _taken_out else {}


def places(resources: ResourcesConfig, without: str = "") -> int:
    """Return how many trials fit at once on the nodes that Ray has now, without excluded ones.

    Args:
        resources: resources of one trial.
        without: id of one more node that does not count.
    """
    out = {*_taken_out, without}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in out]
    fit = sum(min(int(node.get(k, 0.0) / want) for k, want in resources.bundle.items()) for node in nodes)
    return min(fit, resources.max_concurrent or fit)


class Nodes:
    """Attributes failures to trials or to their nodes.

    A trial that is lost with its node is run again as often as that happens. A trial is excused a few times for a fault
    of its node, or for a worker that no longer answers, which may be the fault of either. A node is excluded after a
    few faults in a row, if there is another. All other failures are the trial's own.

    Args:
        resources: resources of a trial.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources = resources
        self._in_a_row: Counter[str] = Counter()
        self._excused: Counter[str] = Counter()

    def worked(self, node: str) -> None:
        """Record that a trial on the node had a result."""
        self._in_a_row.pop(node, None)

    def recovered(self, trial: Trial) -> str | None:
        """Handle a lost trial that Ray starts again. A lost node does not count as the trial's failure.

        Returns:
            Why a node was excluded, if one was.
        """
        error = _error(trial)
        if _died(error) or (isinstance(error, ActorUnavailableError) and self._is_excused(trial)):
            trial.run_metadata.num_failures -= 1
        return self._blamed(error)

    def gave_up(self, trial: Trial) -> tuple[bool, str | None]:
        """Handle a trial that Ray gives up after ``max_failures``.

        Returns:
            Whether to run it again all the same; why a node was excluded, if one was.
        """
        error = _error(trial)
        out, fault = self._blamed(error), _node_error(error)
        elsewhere = fault is not None and places(self._resources, without=fault.node) > 0
        may_be_nodes = elsewhere or isinstance(error, ActorUnavailableError)
        return _died(error) or (may_be_nodes and self._is_excused(trial)), out

    def _is_excused(self, trial: Trial) -> bool:
        name = str(trial.config["name"])
        self._excused[name] += 1
        return self._excused[name] <= EXCUSED

    def _blamed(self, error: Exception | None) -> str | None:
        fault = _node_error(error)
        if fault is None or not fault.node or fault.node in _taken_out:
            return None
        self._in_a_row[fault.node] += 1
        if self._in_a_row[fault.node] < _IN_A_ROW:
            return None
        if not places(self._resources, without=fault.node):  # a bad node is better than none, and its trials report why
            return None
        _taken_out.add(fault.node)
        return f"{_IN_A_ROW} trials in a row failed on node {fault.node[:12]}, which is now excluded: {fault}"


def reason(trial: Trial) -> str:
    """Return why a trial was lost, in one line."""
    fault = _node_error(_error(trial))
    return str(fault) if fault else noted_errors(trial).splitlines()[-1]


def noted_errors(trial: Trial) -> str:
    """Return Ray's record of a trial's errors, with tracebacks, newest last."""
    return Path(trial.error_file).read_text().strip() if trial.error_file else "no error file"


def _error(trial: Trial) -> Exception | None:
    """Load what Ray raised last. Ray's own reader looks in the storage, where the file is not yet."""
    file = trial.pickled_error_file
    error: Exception | None = cloudpickle.loads(Path(file).read_bytes()) if file else None
    return error


def _node_error(error: Exception | None) -> NodeError | None:
    """Return the fault of a node inside the error that Ray raised, if there is one."""
    cause: Any = getattr(error, "cause", error)
    return cause if isinstance(cause, NodeError) else None


def _died(error: Exception | None) -> bool:
    return isinstance(error, RayActorError) and (error.preempted or _NODE_DIED in str(error))
