"""Ray Tune, set up for SPON: start it, run what is left of a stage of a sweep, say how far it came."""

import logging
import os
from collections.abc import Callable, Mapping
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


def places(resources: ResourcesConfig) -> int:
    """Trials that can run at once on what Ray has, at least one."""
    have = ray.cluster_resources()
    fit_in = int(have.get("CPU", 1) // resources.cpus_per_trial)
    if resources.gpus_per_trial:
        fit_in = min(fit_in, int(have.get("GPU", 0) / resources.gpus_per_trial))
    return max(1, min(fit_in, resources.max_concurrent or fit_in))


class Interrupted(Exception):  # noqa: N818 - no error: the user stopped it
    """A stage was stopped before its end, with the results in hand stored; the message says what is left."""


@dataclass(frozen=True)
class Outcome:
    """Trials of a sweep by how they ended."""

    finished: int
    failed: int
    unfinished: int

    @property
    def exit_code(self) -> int:
        """0 if all finished, 1 if one failed."""
        return 1 if self.failed else 0


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
        ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
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


def run_trials(folder: SweepFolder, trials: list[TrialConfig], tracking_uri: str, stage: str = "grid") -> Outcome:
    """Run, or go on with, some trials of a sweep. Finished trials are not run again.

    Ctrl-C stops after the results in hand are stored. After a crash, a trial that ended in the last moments before it
    (5 s in a sweep of 1,000) is run again, if Ray had not noted its end.

    Raises:
        Interrupted: if it was stopped.
    """
    if outcome(folder, trials).unfinished:
        callback = SweepCallback(folder, tracking_uri)
        jobs = {trial.name: {"trial": trial.model_dump(mode="json")} for trial in trials}
        fit(folder, stage, SponTrainable, grid_space(jobs), callback, len(trials), tune.TuneConfig())
    done = outcome(folder, trials)
    if done.unfinished:
        raise Interrupted(f"{stage}, {done.unfinished} trials to go")
    return done


def fit(
    folder: SweepFolder,
    stage: str,
    trainable: type[tune.Trainable],
    space: dict[str, Any],
    callback: tune.Callback,
    n_trials: int,
    config: tune.TuneConfig,
) -> None:
    """Run a stage of a sweep through Ray Tune, or go on with one that was stopped.

    Args:
        folder: of the sweep.
        stage: names Ray's state of it.
        trainable: what runs; it is checkpointed if it trains.
        space: of its config; its place in the resources is added here.
        callback: keeps the results.
        n_trials: about how many will come.
        config: the search, if it is one; how trials are named, placed and reused is added here.
    """
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_STATE_SECONDS * n_trials)
    resources, trains = folder.space.resources, issubclass(trainable, SponTrainable)
    placed = tune.with_resources(trainable, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial})
    space = space | {"threads": resources.cpus_per_trial, "gpus": resources.gpus_per_trial}
    state = folder.path.resolve() / "tune" / stage  # Ray takes a relative path for a URI
    if tune.Tuner.can_restore(str(state)):
        tune.Tuner.restore(str(state), trainable=placed, resume_unfinished=True, param_space=space).fit()
        return
    config.reuse_actors = True
    config.max_concurrent_trials = config.max_concurrent_trials or resources.max_concurrent
    config.trial_name_creator = config.trial_dirname_creator = _trial_name
    checkpoints = tune.CheckpointConfig(
        num_to_keep=_KEPT_CHECKPOINTS if trains else None,
        checkpoint_frequency=int(trains),
        checkpoint_at_end=trains,
    )
    run = tune.RunConfig(
        name=state.name,
        storage_path=str(state.parent),
        callbacks=[callback],
        checkpoint_config=checkpoints,
        failure_config=tune.FailureConfig(max_failures=_MAX_RETRIES),
        log_to_file=trains,
        sync_config=tune.SyncConfig(sync_artifacts=trains),  # takes the log files along
        verbose=0,
    )
    tune.Tuner(placed, param_space=space, tune_config=config, run_config=run).fit()


def grid_space(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A grid over names, each with the config of its job: Ray copies the whole grid for each trial, so it is light.

    Args:
        jobs: by name, all with the same keys.

    Raises:
        SponError: in Ray, if a stage that goes on has a name that is not one of these.
    """

    def look_up(key: str) -> Callable[[dict[str, Any]], Any]:
        def value(config: dict[str, Any]) -> Any:
            if config["name"] not in jobs:
                raise SponError(
                    f"a sweep must go on with the model and the text that it began with, "
                    f"but they have changed: {config['name']} is no trial of it now"
                )
            return jobs[config["name"]][key]

        return value

    keys = next(iter(jobs.values()))
    return {"name": tune.grid_search(list(jobs)), **{key: tune.sample_from(look_up(key)) for key in keys}}


def _trial_name(trial: tune.experiment.Trial) -> str:
    return str(trial.config["name"])


def outcome(folder: SweepFolder, trials: list[TrialConfig]) -> Outcome:
    """How the trials stand."""
    states = [folder.trial(trial).state for trial in trials]
    return Outcome(states.count("finished"), states.count("failed"), states.count("running"))
