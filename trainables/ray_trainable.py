"""Thin adapters for Ray Tune, and the start of Ray. One actor keeps one model and runs trials or masks in turn."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.tune.result import SHOULD_CHECKPOINT
from safetensors import SafetensorError

from search_spaces.errors import NodeError, SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.activity import tell
from trainables.cache import writable
from trainables.checkpoint import COMMIT, Checkpoint, check_fits, code_commit, write_checkpoint
from trainables.cost import claim_gpu, gpu_bytes, out_of_memory
from trainables.listener import hush_up, speak
from trainables.model.dtype import emulation_warning
from trainables.model.resident import find_model, read_shape
from trainables.proxy import MaskScorer
from trainables.quiet import hush
from trainables.trial import Trial
from trainables.workbench import Workbench

_OBJECT_STORE_BYTES = 256 * 2**20

FAILURE = "failure"
"""Key of the reason, in the last result of a trial, for a failure that a retry would not fix."""
VALIDATIONS = "validations"
"""Key of the metrics of all validations so far; a result also has those of the last one at its top level."""
COMPLETE = "complete"
"""Key of whether the trial ends by itself with this result, as opposed to being stopped by a scheduler."""

NODE = "node"
"""Key of the Ray id of the node that a result comes from; empty without Ray."""


def connect_ray(address: str | None) -> None:
    """Start Ray on this machine, or connect to a cluster.

    Args:
        address: of a running cluster, or ``auto``; None starts a local Ray for this process alone.

    Raises:
        SponError: if Ray does not start, the cluster does not answer, or the address is for Ray Client, which would run
            Tune in another process, without this code and on another disk.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        try:
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        except Exception as error:  # Ray raises nothing narrower where a node does not start in time
            raise SponError(f"Ray must start on this machine, but {' '.join(str(error).split())}") from error
        return
    if address.startswith("ray://"):
        raise SponError(f"a driver must run on its cluster (by ray job submit), but got {address} (at --address)")
    try:
        ray.init(address=address, runtime_env=_code(), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:  # an address of another form
        raise SponError(f"a Ray cluster must answer, but {' '.join(str(error).split())} (at --address)") from error


def _code() -> dict[str, Any] | None:
    """Runtime environment that gives workers on other nodes this code; None in a Ray job that already has it."""
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")).get("runtime_env") or {}
    if {"working_dir", "py_modules"} & job.keys():
        return None
    product = Path(__file__).parents[1]
    rooms = [str(product / room) for room in ("search_spaces", "trainables", "sweep", "analysis")]
    return {"py_modules": rooms, "env_vars": {COMMIT: code_commit() or ""}}


class _Resident(tune.Trainable):
    """Base of both adapters. Keeps its model from trial to trial (``reuse_actors``), so a worker loads it once.

    Config: ``trial`` (a ``TrialConfig`` dumped as JSON types), ``threads`` (torch threads, the CPUs of the trial),
    ``gpus`` (its share of a GPU), ``max_minutes`` (its time limit, or None), ``name``, and ``ear`` (the name of the
    actor that collects progress, ``trainables.listener``).

    A fault that the user must fix, a non-finite loss, a trial over its time limit and a GPU that is too small end the
    trial with a result that has ``failure``. Everything else (a fault of the node, a killed worker, a bug) raises an
    exception, which Ray retries and reports.
    """

    _bench: Workbench | None = None
    _made_for: tuple[Any, ...] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the actor's first trial."""
        hush()
        torch.set_num_threads(config["threads"])
        self._gpus = float(config["gpus"])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same actor."""
        self._failure: str | None = None
        self._node_error: NodeError | None = None
        self._forget()
        speak(new_config.get("ear"), new_config.get("name", ""))
        with self._faults_noted():
            trial = TrialConfig.model_validate(new_config["trial"])
            self._begin(self._workbench(trial), trial, new_config)
        return True

    @contextmanager
    def _faults_noted(self) -> Iterator[None]:
        """Note a fault of the trial or of the node in the block; ``step`` reports it."""
        try:
            with _on_this_node():
                yield
        except NodeError as error:
            self._node_error = error
        except SponError as error:
            self._failure = str(error)
        except torch.OutOfMemoryError:
            self._failure = out_of_memory("loading or scoring its model")

    def _workbench(self, trial: TrialConfig) -> Workbench:
        wanted = (trial.model, trial.corpus, trial.device)
        if self._bench is None or self._made_for != wanted:
            if trial.device == "cuda":
                self._claim_gpu(trial)
            if warning := emulation_warning(trial.model.dtype, trial.device):
                tell(warning)
            self._bench, self._made_for = Workbench(*wanted), wanted
        return self._bench

    def _claim_gpu(self, config: TrialConfig) -> None:
        shape, blocks = read_shape(find_model(config.model)), config.corpus.blocks
        tokens = (blocks.calibration + blocks.validation) * config.corpus.block_size
        claim_gpu(gpu_bytes(shape, config.model.dtype, config.corpus.block_size, tokens, config.training), self._gpus)

    def step(self) -> dict[str, Any]:
        """The next result, with the number of parameters as the second objective of a search."""
        result: dict[str, Any] = {}
        if self._failure is None and self._node_error is None:
            with self._faults_noted():
                result = self._advance()
        if not result or result["done"]:
            hush_up()
        if self._node_error is not None:
            raise self._node_error
        return {**result, NODE: _node()} if result else {FAILURE: self._failure, COMPLETE: False, "done": True}

    def _forget(self) -> None:
        """Drop the previous trial."""
        raise NotImplementedError

    def _begin(self, bench: Workbench, trial: TrialConfig, config: dict[str, Any]) -> None:
        raise NotImplementedError

    def _advance(self) -> dict[str, Any]:
        raise NotImplementedError


class SponTrainable(_Resident):
    """One SPON trial as a Ray Tune trainable; a ``step`` trains up to the next validation.

    After each step Tune gets the trial's state as a checkpoint; the last one also holds the trial's own checkpoint.

    Config: the shared keys, and ``states``: paths or URIs of states under earlier drivers, newest first.
    """

    def _forget(self) -> None:
        self._trial: Trial | None = None
        self._finished: Checkpoint | None = None

    def _begin(self, bench: Workbench, trial: TrialConfig, config: dict[str, Any]) -> None:
        self._new, self._states = partial(Trial, bench, trial), config["states"]
        self._trial = self._taken_up()
        self._n_params, self._max_minutes = trial.n_spon_params, config.get("max_minutes")

    def _taken_up(self) -> Trial:
        """The trial, restored from the newest readable state, or new."""
        for state in self._states:
            trial = self._new()
            with tune.Checkpoint(state).as_directory() as files:
                if _loaded(trial, Path(files)):
                    return trial
        return self._new()

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # a path, as it was saved
        """Continue from the state that Tune has, after the previous worker was lost."""
        if self._trial is not None and not _loaded(self._trial, Path(checkpoint_dir)):
            self._trial = self._taken_up()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state, and the trial's checkpoint if it is done."""
        assert self._trial is not None
        directory = Path(checkpoint_dir)
        with _on_this_node(), writable(directory):
            self._trial.save(directory)
            if self._finished:
                write_checkpoint(self._finished, directory)

    def _advance(self) -> dict[str, Any]:
        """Train to the next validation; a trial restored at its end repeats its last result."""
        assert self._trial is not None
        if not self._trial.done:
            self._trial.advance(self._clock())
        if done := self._trial.done:
            self._finished = self._trial.finish()
        return {
            **self._trial.history[-1],
            VALIDATIONS: list(self._trial.history),
            "n_spon_params": self._n_params,
            "training_iteration": len(self._trial.history),
            SHOULD_CHECKPOINT: True,
            COMPLETE: done,
            "done": done,
        }

    def _clock(self) -> Callable[[], None]:
        """A check that ends the trial when its time is up, including the time spent in earlier processes."""
        assert self._trial is not None
        limit, before, started = self._max_minutes, self._trial.seconds, time.monotonic()

        def look() -> None:
            minutes = (before + time.monotonic() - started) / 60
            if limit is not None and minutes > limit:
                raise SponError(f"a trial must end within {limit:g} min, but took more (at resources.max_minutes)")

        return look


class MaskTrainable(_Resident):
    """One mask on the proxy as a Ray Tune trainable; each ``step`` is a rung, on more blocks than the one before.

    Config: the shared keys, and ``rungs`` (validation blocks of each step). ``trial`` is the one that would train the
    mask for real.
    """

    def setup(self, config: dict[str, Any], shared: Checkpoint) -> None:  # type: ignore[override]
        """Begin the actor's first mask. Shared biases come through ``tune.with_parameters``, not from a node's disk."""
        self._shared = shared
        self._scorer: MaskScorer | None = None
        self._made_from: tuple[Any, ...] = ()
        super().setup(config)

    def _forget(self) -> None:
        self._rung = 0

    def _begin(self, bench: Workbench, trial: TrialConfig, config: dict[str, Any]) -> None:
        bench.check(trial)
        self._rungs, self._n_params = config["rungs"], trial.n_spon_params
        self._mask = frozenset(Site.parse(site) for site in trial.sites)
        wanted = (bench, trial.plan, trial.training.form)
        if self._made_from != wanted:
            self._scorer, self._made_from = _scorer(bench, trial, self._shared), wanted

    def _advance(self) -> dict[str, Any]:
        assert self._scorer is not None
        blocks = self._rungs[self._rung]
        scores = self._scorer.scores(self._mask, blocks)
        if not math.isfinite(scores.kl_nats):
            raise SponError(f"a mask's KL must be finite, but it is {scores.kl_nats} (at search.proxy)")
        self._rung += 1
        done = self._rung == len(self._rungs)
        return {
            "val_kl_nats": scores.kl_nats,
            "val_nll_nats": scores.nll_nats,
            "block_kl_nats": list(scores.block_kl_nats),
            "n_spon_params": self._n_params,
            "blocks": blocks,
            COMPLETE: done,
            "done": done,
        }


@contextmanager
def _on_this_node() -> Iterator[None]:
    """Add the id of this node to a fault of the node."""
    try:
        yield
    except NodeError as error:
        error.node = _node()
        raise


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _loaded(trial: Trial, state: Path) -> bool:
    """Restore a trial from a state. Returns False if that cannot be read; the caller then needs a new trial."""
    try:
        trial.load(state)
    except (OSError, SafetensorError, ValueError, KeyError) as error:  # ValueError: not JSON, or another shape
        print(f"a state of the trial cannot be read: {error} (at {state})")
        return False
    return True


def _scorer(bench: Workbench, trial: TrialConfig, shared: Checkpoint) -> MaskScorer:
    check_fits(shared, bench.model.shape, bench.model.fingerprint)
    trained, form = shared.meta.config, trial.training.form
    if (trained.plan, trained.training.form) != (trial.plan, form):
        got = f"{trained.plan_label}, {trained.training.form} for {trial.plan_label}, {form}"
        raise SponError(f"shared biases must be of the mask's own plan and form, but got {got} (at search.proxy)")
    return MaskScorer(bench, trial.plan, shared.biases, form)
