"""Whose fault it was that a trial was lost: its own or that of its node; and nodes that get no more trials."""

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
"""Trials that a node may fail one after the other before it gets no more."""
EXCUSED = 3
"""Times that a trial is excused for what may have been its node's fault."""
_NODE_DIED = "its node has died"
"""What Ray says of a worker that was lost with its node."""

_taken_out: set[str] = set()
"""Ray's ids of nodes that get no more work from this driver."""


def take_back() -> None:
    """Let all nodes have work again: another sweep begins."""
    _taken_out.clear()


class Place(tune.PlacementGroupFactory):
    """Room for one trial, on any node that was not taken out."""

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for it."""
        labels = selector()
        place: PlacementGroup = placement_group(self.bundles, bundle_label_selector=[labels] if labels else None)
        return place


def selector() -> dict[str, str]:
    """Ray's label selector of the nodes that work may go to; empty if it may go to all."""
    return {"ray.io/node-id": f"!in({','.join(sorted(_taken_out))})"} if _taken_out else {}


def places(resources: ResourcesConfig, without: str = "") -> int:
    """Trials that can run at once on the nodes that Ray has now, of those that were not taken out.

    Args:
        resources: of one trial.
        without: id of a node that does not count.
    """
    out = {*_taken_out, without}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in out]
    fit = sum(min(int(node.get(k, 0.0) / want) for k, want in resources.bundle.items()) for node in nodes)
    return min(fit, resources.max_concurrent or fit)


class Nodes:
    """What the nodes of a sweep did to its trials.

    A trial that is lost with its node is run again as often as that happens. One that meets a fault of its node, or
    whose worker no longer answers, which may be either's, is excused a few times. A node is taken out after a few
    faults in a row, if there is another. All else is the trial's own fault.

    Args:
        resources: of a trial.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources = resources
        self._in_a_row: Counter[str] = Counter()
        self._excused: Counter[str] = Counter()

    def worked(self, node: str) -> None:
        """A trial on the node had a result."""
        self._in_a_row.pop(node, None)

    def recovered(self, trial: Trial) -> str | None:
        """Ray starts a lost trial again. A lost node is none of its failures.

        Returns:
            Why a node was taken out, if one was.
        """
        error = _error(trial)
        if _died(error) or (isinstance(error, ActorUnavailableError) and self._is_excused(trial)):
            trial.run_metadata.num_failures -= 1
        return self._blamed(error)

    def gave_up(self, trial: Trial) -> tuple[bool, str | None]:
        """Ray gives a trial up, after ``max_failures``.

        Returns:
            Whether it is to be run again all the same; why a node was taken out, if one was.
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
        if not places(self._resources, without=fault.node):  # a bad node is better than none: its trials say why
            return None
        _taken_out.add(fault.node)
        return f"{_IN_A_ROW} trials in a row failed on node {fault.node[:12]}, which gets no more: {fault}"


def reason(trial: Trial) -> str:
    """Why a trial was lost, in one line."""
    fault = _node_error(_error(trial))
    return str(fault) if fault else noted_errors(trial).splitlines()[-1]


def noted_errors(trial: Trial) -> str:
    """What Ray noted of a trial's errors, with tracebacks, the last one last."""
    return Path(trial.error_file).read_text().strip() if trial.error_file else "no error file"


def _error(trial: Trial) -> Exception | None:
    """What Ray raised last. Its own reader looks in the storage, where the file is not yet."""
    file = trial.pickled_error_file
    error: Exception | None = cloudpickle.loads(Path(file).read_bytes()) if file else None
    return error


def _node_error(error: Exception | None) -> NodeError | None:
    """The fault of a node in what Ray raised, which wraps what a worker did."""
    cause: Any = getattr(error, "cause", error)
    return cause if isinstance(cause, NodeError) else None


def _died(error: Exception | None) -> bool:
    return isinstance(error, RayActorError) and (error.preempted or _NODE_DIED in str(error))
