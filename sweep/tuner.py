"""Ray Tune, set up for SPON: run what is left of a stage of a sweep, say how far it came."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from sweep.callback import SweepCallback
from sweep.folder import SweepFolder
from trainables.cache import writable
from trainables.ray_trainable import SponTrainable
from trainables.training import total_steps

_STATE_SECONDS = 0.005
"""Seconds between two times that Ray writes the state of all trials, for each of them. Writing takes 0.1 to 0.2 ms a
trial: a share of the time that does not grow with the sweep. A small sweep's state is written at every event."""


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


def run_trials(folder: SweepFolder, trials: list[TrialConfig], tracking_uri: str, stage: str = "grid") -> Outcome:
    """Run, or go on with, some trials of a sweep. Finished trials are not run again.

    Ctrl-C stops after the results in hand are stored. After a crash, a trial that ended in the last moments before it
    (5 s in a sweep of 1,000) is taken up again, if Ray had not noted its end, and says at once that it is done.

    Raises:
        Interrupted: if it was stopped.
        SponError: if the storage is full, or cannot be written any more.
    """
    folder.plan({trial.name: _steps(trial) for trial in trials})
    if outcome(folder, trials).unfinished:
        callback = SweepCallback(folder, tracking_uri)
        jobs = {trial.name: folder.job(trial) for trial in trials}
        fit(folder, stage, SponTrainable, grid_space(jobs), callback, len(trials), tune.TuneConfig())
    done = outcome(folder, trials)
    if done.unfinished:
        raise Interrupted(f"{stage}, {done.unfinished} trials to go")
    folder.drop_states()
    return done


def _steps(trial: TrialConfig) -> int:
    return total_steps(trial.corpus.blocks.calibration, trial.training) if trial.sites else 0


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
        trainable: what runs; its output is kept if it trains.
        space: of its config; its place in the resources is added here.
        callback: keeps the results.
        n_trials: about how many will come.
        config: the search, if it is one; how trials are named, placed and reused is added here.
    """
    _keep_secrets()
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_STATE_SECONDS * n_trials)
    resources, trains = folder.space.resources, issubclass(trainable, SponTrainable)
    placed = tune.with_resources(trainable, tune.PlacementGroupFactory([resources.bundle]))
    space = space | {
        "threads": resources.cpus_per_trial,
        "gpus": resources.gpus_per_trial,
        "max_minutes": resources.max_minutes,
    }
    state = folder.path.resolve() / "tune" / stage  # Ray takes a relative path for a URI
    if tune.Tuner.can_restore(str(state)):
        _run(tune.Tuner.restore(str(state), trainable=placed, resume_unfinished=True, param_space=space), folder)
        return
    config.reuse_actors = True
    config.max_concurrent_trials = config.max_concurrent_trials or resources.max_concurrent
    config.trial_name_creator = config.trial_dirname_creator = _trial_name
    run = tune.RunConfig(
        name=state.name,
        storage_path=str(state.parent),
        callbacks=[callback],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own states
        failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        log_to_file=trains,
        sync_config=tune.SyncConfig(sync_artifacts=trains, sync_period=0),  # the log files, after each result
        verbose=0,
    )
    _run(tune.Tuner(placed, param_space=space, tune_config=config, run_config=run), folder)


def _run(tuner: tune.Tuner, folder: SweepFolder) -> None:
    """Run until the end, or until a callback cannot write, which Ray wraps with its traceback."""
    with writable(folder.path):
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _keep_secrets() -> None:
    """Tune would pass the cloud keys of the driver on to trials, and Ray's agent writes what it passes on into its log.

    Workers have the environment of their node, which is the driver's where Ray runs on this machine alone.
    """
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name[:4] == "AWS_"}


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
