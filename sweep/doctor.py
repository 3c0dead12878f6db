"""``doctor``: check this set-up and suggest a fix for each fault."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the HTTP library that the hub client uses

from search_spaces.config import EMBEDDED, SpaceConfig
from search_spaces.errors import SponError
from trainables.cache import cache_root
from trainables.demo.embedded import documents_key, model_key
from trainables.model.dtype import decide_dtype
from trainables.model.resident import find_model
from trainables.tracking import bound_waiting, refuse_password

_NEEDED_GIB = 4.0
_NODE_SECONDS = 120.0
"""Time for a node to answer, its first import of torch included."""
_REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"
"""In a checkout. An installed package lists its own requirements."""


class Finding(NamedTuple):
    """Result of one check. A ``note`` matters only to some uses and does not count as a fault."""

    state: Literal["ok", "note", "FAULT"]
    what: str
    remedy: str = ""


def examine(address: str | None = None, space: SpaceConfig | None = None) -> int:
    """Print every finding, and return 1 if there is a fault, else 0.

    Args:
        address: Ray cluster whose nodes are checked too.
        space: its model and text are looked for, here and on the nodes.

    Raises:
        SponError: if the cluster does not answer.
    """
    faults = 0
    here = (_python, _packages, _devices, _cache, _embedded, _hub, _ray, _mlflow)
    there = _nodes(address, space) if address else ()
    for finding in chain(*(check() for check in here), _sources(space), there):
        faults += finding.state == "FAULT"
        print(f"{finding.state:5}  {finding.what}" + (f"\n       -> {finding.remedy}" if finding.remedy else ""))
    print(f"\nfaults: {faults}" if faults else "\nready")
    return 1 if faults else 0


def _python() -> Iterator[Finding]:
    here = f"Python {platform.python_version()}"
    yield Finding("ok", here) if sys.version_info >= (3, 11) else Finding("FAULT", here, "use Python 3.11")


def _packages() -> Iterator[Finding]:
    wanted = _REQUIREMENTS.read_text() if _REQUIREMENTS.exists() else "\n".join(requires("spon-sweep") or ())
    pins = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s#;]+)(?!.*extra ==)", wanted, re.MULTILINE)
    wrong = [f"{name} {have or 'missing'} (want {want})" for name, want in pins if (have := _installed(name)) != want]
    if wrong:
        yield Finding("FAULT", f"packages: {', '.join(wrong)}", "pip install -r requirements.txt")
    else:
        yield Finding("ok", f"{len(pins)} packages at their pinned versions")


def _installed(name: str) -> str | None:
    try:
        return version(name).split("+")[0]  # torch appends its build: 2.13.0+cpu
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    yield Finding("ok", f"{os.cpu_count()} CPU cores, torch {torch.__version__}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Finding("ok", f"GPU {index}: {device.name}, {device.total_memory / 2**30:.0f} GiB")
    else:
        yield Finding("note", "no GPU", "only spaces with gpus_per_trial: 0 can run here")
    chosen = decide_dtype("cpu")
    yield Finding("ok", f"model.dtype: auto means {chosen.dtype} for trials on the CPU: {chosen.reason}")


def _cache() -> Iterator[Finding]:
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        yield Finding("FAULT", f"cache {root}: {error.strerror}", "make it writable, or set SPON_CACHE")
        return
    free = shutil.disk_usage(root).free / 2**30
    room = f"cache {root}, {free:.1f} GiB free"
    remedy = f"free {_NEEDED_GIB:.0f} GiB, or set SPON_CACHE to a larger disk"
    yield Finding("ok", room) if free >= _NEEDED_GIB else Finding("FAULT", room, remedy)


def _embedded() -> Iterator[Finding]:
    for kind, key, what in (("models", model_key(), "model"), ("documents", documents_key(), "text")):
        if (cache_root() / kind / key).is_dir():
            yield Finding("ok", f"embedded {what} is in the cache")
        else:
            yield Finding("note", f"embedded {what} is not in the cache", "the first run fetches it")


def _hub() -> Iterator[Finding]:
    try:
        HfApi().model_info("gpt2", timeout=5)
        yield Finding("ok", f"{constants.ENDPOINT} answers")
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError, OSError) as error:
        yield Finding(
            "note",
            f"{constants.ENDPOINT} is out of reach ({type(error).__name__})",
            "only the embedded model and local files can be used",
        )
    yield from _token()


def _token() -> Iterator[Finding]:
    if get_token():
        yield Finding("ok", "a Hugging Face token is set")
    else:
        yield Finding("note", "no Hugging Face token", "for gated models: hf auth login, or HF_TOKEN")


def _ray() -> Iterator[Finding]:
    import ray

    mode, address = os.environ.get("RAY_AUTH_MODE", "unset"), os.environ.get("RAY_ADDRESS", "unset")
    yield Finding("ok", f"Ray {ray.__version__}, RAY_AUTH_MODE {mode}, RAY_ADDRESS {address}")
    shared = shutil.disk_usage("/dev/shm").free / 2**20 if Path("/dev/shm").is_dir() else None
    if shared is not None and shared < 256:
        yield Finding("FAULT", f"/dev/shm has {shared:.0f} MiB", "Ray wants 256 MiB there: docker run --shm-size=1g")


def _sources(space: SpaceConfig | None) -> Iterator[Finding]:
    """Check that the model and the text of a space are available."""
    if space is None:
        return
    try:
        if space.model.source != EMBEDDED:  # the first run fetches that one
            find_model(space.model)
        yield Finding("ok", f"model {space.model.source}: available")
    except SponError as error:
        yield Finding("FAULT", str(error), "fix model in the space, or check that this machine reaches the hub")
    name, wrong = space.corpus.source, ""
    missing = [path for paths in (space.corpus.files or {}).values() for path in paths if not Path(path).exists()]
    if missing:
        wrong = f"text files are missing: {', '.join(missing)}"
    elif space.corpus.on_hub:
        try:
            HfApi().dataset_info(name, revision=space.corpus.revision, timeout=5)
        except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError, OSError) as error:
            wrong = f"text {name} is not available: {' '.join(str(error).split())[:160]}"
    remedy = "fix corpus in the space, or check that this machine reaches the hub"
    yield Finding("FAULT", wrong, remedy) if wrong else Finding("ok", f"text {name}: available")


def _nodes(address: str, space: SpaceConfig | None) -> Iterator[Finding]:
    """Check what trials would find on each node of a cluster."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from trainables.ray_trainable import connect_ray

    connect_ray(address)
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:12]})"
        asked[name] = ray.remote(num_cpus=0, scheduling_strategy=there)(_of_node).remote(space)
    for name, answer in asked.items():
        try:
            found = ray.get(answer, timeout=_NODE_SECONDS)
        except RayError as error:
            yield Finding("FAULT", f"node {name}: {str(error).splitlines()[0]}", "see its Ray logs, or remove it")
            continue
        yield from (finding._replace(what=f"node {name}: {finding.what}") for finding in found)
    ray.shutdown()


def _of_node(space: SpaceConfig | None) -> list[Finding]:
    return [*_python(), *_devices(), *_cache(), *_token(), *_sources(space)]


def _mlflow() -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        yield Finding("ok", "MLflow writes to SQLite in the storage directory")
        return
    bound_waiting()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        refuse_password(uri, "MLFLOW_TRACKING_URI")
        MlflowClient(uri).search_experiments(max_results=1)
        yield Finding("ok", f"MLflow at {uri} answers")
    except SponError as error:
        yield Finding("FAULT", str(error), "take the password out of MLFLOW_TRACKING_URI")
    except MlflowException as error:
        yield Finding(
            "FAULT", f"MLflow at {uri}: {str(error).splitlines()[0]}", "start it, or unset MLFLOW_TRACKING_URI"
        )
