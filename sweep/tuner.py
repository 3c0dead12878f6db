"""Ray Tune, set up for SPON trials: start it, run the trials that are left, say how far it came."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from search_spaces.errors import SponError
from search_spaces.schema import ResourcesConfig, TrialConfig
from sweep.callback import SweepCallback
from sweep.folder import SweepFolder
from trainables.ray_trainable import SponTrainable

_OBJECT_STORE_BYTES = 256 * 2**20
_MAX_RETRIES = 2
_KEPT_CHECKPOINTS = 2
"""Of a trial in progress. If Ray kept the last one only, it would write the state of all trials at every checkpoint, so
as to name one that exists; of two, the one that it named last is there still."""
_STATE_SECONDS = 0.005
"""Seconds between two times that Ray writes the state of all trials, for each of them. Writing takes 0.1 to 0.2 ms a
trial: a share of the time that does not grow with the sweep. A small sweep's state is written at every event."""


@dataclass(frozen=True)
class Outcome:
    """Trials of a sweep by how they ended."""

    finished: int
    failed: int
    unfinished: int

    @property
    def exit_code(self) -> int:
        """0 if all finished, 1 if one failed, 130 if the sweep was stopped before its end."""
        return 130 if self.unfinished else 1 if self.failed else 0


def start_ray(resources: ResourcesConfig, address: str | None = None) -> None:
    """Start Ray on this machine, or connect to a cluster.

    Args:
        resources: of one trial, checked against what there is.
        address: of a running cluster, ``auto`` or ``ray://...``; a local Ray of this process's own without it.

    Raises:
        SponError: if no node can ever hold a trial, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # warns of the loggers that are off
    if not ray.is_initialized():
        _connect(address)
    _check_fits(resources)


def _connect(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise SponError(f"a Ray cluster must answer, but {' '.join(str(error).split())} (at --address)") from error


def _check_fits(resources: ResourcesConfig) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    want = {"CPU": float(resources.cpus_per_trial), "GPU": resources.gpus_per_trial}
    if not any(all(node.get(kind, 0.0) >= amount for kind, amount in want.items()) for node in nodes):
        have = "; ".join(f"CPU {node.get('CPU', 0):g}, GPU {node.get('GPU', 0):g}" for node in nodes)
        raise SponError(
            f"a node must have what a trial asks for, CPU {want['CPU']:g} and GPU {want['GPU']:g}, "
            f"but the nodes have: {have} (at resources)"
        )


def run_trials(folder: SweepFolder, trials: list[TrialConfig], tracking_uri: str) -> Outcome:
    """Run, or go on with, the trials of a sweep. Finished trials are not run again.

    Ctrl-C stops after the results in hand are stored; ``Outcome.unfinished`` then tells. After a crash, a trial that
    ended in the last moments before it (5 s in a sweep of 1,000) is run again, if Ray had not noted its end.
    """
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(_STATE_SECONDS * len(trials)))
    if _outcome(folder, trials).unfinished:
        _tuner(folder, trials, tracking_uri).fit()
    return _outcome(folder, trials)


def _tuner(folder: SweepFolder, trials: list[TrialConfig], tracking_uri: str) -> tune.Tuner:
    resources = folder.space.resources
    trainable = tune.with_resources(SponTrainable, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial})
    state = folder.path.resolve() / "tune"  # Ray takes a relative path for a URI
    space = param_space(trials) | {"threads": resources.cpus_per_trial, "gpus": resources.gpus_per_trial}
    if tune.Tuner.can_restore(str(state)):
        return tune.Tuner.restore(str(state), trainable=trainable, resume_unfinished=True, param_space=space)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=resources.max_concurrent,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent),
            callbacks=[SweepCallback(folder, tracking_uri)],
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=_KEPT_CHECKPOINTS, checkpoint_frequency=1, checkpoint_at_end=True
            ),
            failure_config=tune.FailureConfig(max_failures=_MAX_RETRIES),
            log_to_file=True,
            sync_config=tune.SyncConfig(sync_artifacts=True),  # takes the log files along
            verbose=0,
        ),
    )


def param_space(trials: list[TrialConfig]) -> dict[str, Any]:
    """A grid over the trials' names, each with its config: Ray copies the whole grid for each trial, so it is light.

    Raises:
        SponError: in Ray, if a sweep that goes on has a trial that is not one of these.
    """
    configs = {trial.name: trial.model_dump(mode="json") for trial in trials}

    def config_of(config: dict[str, Any]) -> dict[str, Any]:
        if config["name"] not in configs:
            raise SponError(
                f"a sweep must go on with the model and the text that it began with, "
                f"but they have changed: {config['name']} is no trial of it now"
            )
        return configs[config["name"]]

    return {"name": tune.grid_search(list(configs)), "trial": tune.sample_from(config_of)}


def _trial_name(trial: tune.experiment.Trial) -> str:
    return str(trial.config["name"])


def _outcome(folder: SweepFolder, trials: list[TrialConfig]) -> Outcome:
    states = [folder.trial(trial).state for trial in trials]
    return Outcome(states.count("finished"), states.count("failed"), states.count("running"))
