"""Starts or finds the Ray that a sweep runs on, and waits until it has a place for a trial."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # generated
from ray.util import placement_group, remove_placement_group

from search_spaces.config import ResourcesConfig
from search_spaces.errors import SponError
from sweep.terminal.display import say
from sweep.tune.nodes import places, selector, take_back
from trainables.quiet import hush
from trainables.ray_trainable import connect_ray

_POLL_SECONDS = 2.0
_NEWS_SECONDS = 15.0
_SILENT_SECONDS = 10.0
"""A cluster whose autoscaler is silent for this long has none. An autoscaler reports every 5 s."""
_MARK = "accelerator_type:"


def start_ray(resources: ResourcesConfig, address: str | None = None) -> None:
    """Start Ray on this machine, or connect to a cluster, and wait until it has a place for a trial.

    Args:
        resources: resources of one trial.
        address: address of a running cluster, or ``auto``; by default a local Ray for this process alone.

    Raises:
        SponError: if no node can ever hold a trial, or the cluster does not answer.
    """
    hush()
    take_back()
    if not ray.is_initialized():
        at_sigterm = signal.getsignal(signal.SIGTERM)
        connect_ray(address)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)  # Ray's own handler would end this process at once
    try:
        if not places(resources):
            _wait_for_place(resources, grows=address is not None)
    except SponError:
        ray.shutdown()
        raise


def at_once(resources: ResourcesConfig) -> int:
    """Trials that a search requests at once: ``max_concurrent`` if the cluster can grow to it, else what fits now."""
    here, most = max(1, places(resources)), resources.max_concurrent
    return most if most and most > here and _autoscaler().speaks else here


def remotely(resources: ResourcesConfig, work: Callable[..., Any]) -> Any:
    """Wrap a function or class for Ray, with the resources of a trial."""
    place = resources.bundle
    cpus, gpus, memory = place.pop("CPU"), place.pop("GPU", 0.0), place.pop("memory", 0)
    needs: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory, "resources": place}
    return ray.remote(**needs, label_selector=selector())(work)


def answer(ref: Any) -> Any:
    """Return what a worker returned, or raise its ``SponError`` without Ray's wrapping."""
    try:
        return ray.get(ref)
    except SponError as error:
        raise getattr(error, "cause", error) from None


class Autoscaler(NamedTuple):
    """Last report of a cluster's autoscaler.

    Attributes:
        speaks: whether there is an autoscaler.
        coming: number of requested nodes that are not there yet, by type.
        failed: why requests for nodes failed, newest last.
        impossible: bundles that no node type can hold.
    """

    speaks: bool
    coming: Mapping[str, int]
    failed: tuple[str, ...]
    impossible: tuple[dict[str, float], ...]


def _wait_for_place(resources: ResourcesConfig, grows: bool) -> None:
    """Request a place for a trial and wait for it, as long as the autoscaler can provide it.

    Raises:
        SponError: if there will never be one.
    """
    bundle = resources.bundle
    if not grows:
        raise _impossible(bundle, "this machine has")
    asked = placement_group([bundle])
    begun, told = time.monotonic(), -_NEWS_SECONDS
    try:
        while not asked.wait(timeout_seconds=_POLL_SECONDS):
            said, waited = _autoscaler(), time.monotonic() - begun
            if bundle in said.impossible:
                raise _impossible(bundle, "no node that the autoscaler can add has it, and the nodes have")
            if not said.speaks and waited > _SILENT_SECONDS:
                raise _impossible(bundle, "there is no autoscaler, and the nodes have")
            if waited - told >= _NEWS_SECONDS:
                say(_news(bundle, said, waited))
                told = waited
    finally:
        remove_placement_group(asked)


def _autoscaler() -> Autoscaler:
    """Read the last report of the autoscaler."""
    reply = GetClusterStatusReply()
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=5))
    return _understood(reply)


def _understood(reply: Any) -> Autoscaler:
    state = reply.autoscaling_state
    coming: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    coming.update(instance.ray_node_type_name for instance in state.pending_instances)
    gangs = state.infeasible_gang_resource_requests
    bundles = [r for gang in gangs for selector in gang.bundle_selectors for r in selector.resource_requests]
    bundles += [r for gang in gangs for r in gang.requests]
    return Autoscaler(
        speaks=state.autoscaler_state_version > 0,
        coming=dict(coming),
        failed=tuple(failed.reason for failed in state.failed_instance_requests),
        impossible=tuple(
            {name: amount for name, amount in request.resources_bundle.items() if "_group_" not in name}
            for request in bundles  # Ray adds names for the placement group itself
        ),
    )


def _news(bundle: Mapping[str, float], said: Autoscaler, waited: float) -> str:
    coming = ", ".join(f"{count} x {kind}" for kind, count in said.coming.items()) or "none"
    failed = f"; last failure: {said.failed[-1]}" if said.failed else ""
    return f"waiting {waited:.0f} s for a node with {_in_words(bundle, bundle)}; on their way: {coming}{failed}"


def _impossible(bundle: Mapping[str, float], what_is_there: str) -> SponError:
    asked = _in_words(bundle, bundle)
    have = Counter(_in_words(node["Resources"], bundle) for node in ray.nodes() if node["Alive"])
    listed = "; ".join(f"{count} x ({words})" if count > 1 else words for words, count in have.items())
    return SponError(f"a node must have what a trial asks for, {asked}, but {what_is_there}: {listed} (at resources)")


def _in_words(resources: Mapping[str, float], asked: Mapping[str, float]) -> str:
    """Format CPUs, GPUs, memory if requested, and accelerator types, such as ``CPU 12, GPU 1, 56.0 GiB, A100``."""
    memory = [f"{resources.get('memory', 0) / 2**30:.1f} GiB"] if "memory" in asked else []
    kinds = sorted(name.removeprefix(_MARK) for name in resources if name.startswith(_MARK))
    return ", ".join([f"CPU {resources.get('CPU', 0):g}", f"GPU {resources.get('GPU', 0):g}", *memory, *kinds])
