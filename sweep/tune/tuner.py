"""Ray Tune, set up for SPON: runs the rest of a stage of a sweep and reports its progress."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder
from sweep.store.storage import answering, drop_states, folders_in, states_in
from sweep.tune.callback import SweepCallback
from sweep.tune.estimate import work_of
from sweep.tune.nodes import Nodes, Place, places
from sweep.tune.progress import Progress
from sweep.tune.scheduler import InTurn
from trainables.cache import writable
from trainables.ray_trainable import SponTrainable

_NEVER = 10**9
"""Seconds between Ray's snapshots of all trials, from which nothing is resumed."""


class Interrupted(Exception):  # noqa: N818 - no error: the user stopped it
    """A stage was stopped before its end, and the results in hand are stored. The message says what is left."""


def run_trials(
    folder: SweepFolder,
    shape: ModelShape,
    trials: list[TrialConfig],
    tracking_uri: str,
    stage: str = "grid",
    with_test: bool = False,
) -> float | None:
    """Run or resume trials of a sweep. Ended trials are not run again, and others resume from their states.

    Trials that failed because of their nodes are run again after all others. Ctrl-C stops after the results in hand are
    stored.

    Args:
        folder: of the sweep.
        shape: of the model.
        trials: of the stage.
        tracking_uri: of MLflow.
        stage: name of the stage, and of Ray's folder for it.
        with_test: whether the test report follows, which counts in the time left.

    Returns:
        Operations per second in one place, if any trial was trained now.

    Raises:
        Interrupted: if the stage was stopped.
        SponError: if the storage is full, no longer writable, or a bucket that does not answer.
    """
    if not trials:
        return None
    folder.plan({trial.name: work_of(trial, shape).steps for trial in trials})
    resources = folder.space.resources
    nodes, speed, again = Nodes(resources), None, {trial.name for trial in trials}
    while (left := _left(folder, trials)) and {trial.name for trial in left} <= again:  # otherwise it was stopped
        before, at_once = len(trials) - len(left), places(resources)
        progress = Progress(shape, left, at_once, n_before=before, with_test=with_test)
        callback = SweepCallback(folder, progress, tracking_uri, nodes)
        states = states_in(folder.tune)
        jobs = {trial.name: folder.job(trial, states) for trial in left}
        fit(folder, stage, SponTrainable, grid_space(jobs), callback, tune.TuneConfig())
        speed, again = progress.speed or speed, callback.put_off
    if left:
        raise Interrupted(f"{stage}, {len(left)} trials to go")
    drop_done_states(folder)
    return speed


def _left(folder: SweepFolder, trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return the trials that have not ended, or not begun."""
    return [trial for trial in trials if folder.trial(trial).state == "running"]


def drop_done_states(folder: SweepFolder) -> None:
    """Remove the states of trials that need them no more. A failed trial may be retried, and others may resume."""
    drop_states(folder.tune, {trial.path.name for trial in folder.trials if trial.state in ("finished", "stopped")})


def fit(
    folder: SweepFolder,
    stage: str,
    trainable: type[tune.Trainable],
    space: dict[str, Any],
    callback: tune.Callback,
    config: tune.TuneConfig,
) -> None:
    """Run the rest of a stage of a sweep through Ray Tune.

    Args:
        folder: of the sweep.
        stage: name of the stage, and of Ray's folder for it.
        trainable: what to run; its output is kept if it trains.
        space: search space of its config; resources are added here.
        callback: stores the results.
        config: searcher, if there is one; naming, scheduling and reuse of actors are added here.
    """
    _keep_secrets()
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(_NEVER)
    resources, trains = folder.space.resources, issubclass(trainable, SponTrainable)
    placed = tune.with_resources(trainable, Place([resources.bundle]))
    space = space | {
        "threads": resources.cpus_per_trial,
        "gpus": resources.gpus_per_trial,
        "max_minutes": resources.max_minutes,
        "ear": folder.ear,
    }
    config.reuse_actors = True
    config.max_concurrent_trials = config.max_concurrent_trials or resources.max_concurrent
    config.scheduler = config.scheduler or InTurn(resources)
    config.trial_name_creator = config.trial_dirname_creator = lambda trial: str(trial.config["name"])
    known = folders_in(folder.tune)
    run = tune.RunConfig(
        name=next(name for number in count(1) if (name := f"{stage}.{number}") not in known),  # nothing is overwritten
        storage_path=folder.tune,
        callbacks=[callback],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials decide when; all states are kept
        failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        log_to_file=trains,
        sync_config=tune.SyncConfig(sync_artifacts=trains, sync_period=0),  # the log files, after each result
        verbose=0,
    )
    _run(tune.Tuner(placed, param_space=space, tune_config=config, run_config=run), folder)


def _run(tuner: tune.Tuner, folder: SweepFolder) -> None:
    """Run to the end, and raise a callback's failed write, or read of a bucket, without Ray's wrapping."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    with answering(folder.tune), writable(folder.path):
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        finally:
            for number, handler in handlers.items():  # Ray leaves its own, which would swallow the next Ctrl-C
                signal.signal(number, handler)


def _keep_secrets() -> None:
    """Keep Tune from passing the driver's cloud keys to trials, because Ray's agent logs what is passed.

    Workers have the environment of their node, which is the driver's if Ray runs on this machine alone.
    """
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name[:4] == "AWS_"}


def grid_space(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a grid over names, each with the config of its job. Ray copies the grid for each trial, so it is light.

    Args:
        jobs: configs by name, all with the same keys.
    """

    def look_up(key: str) -> Callable[[dict[str, Any]], Any]:
        return lambda config: jobs[config["name"]][key]

    keys = next(iter(jobs.values()))
    return {"name": tune.grid_search(list(jobs)), **{key: tune.sample_from(look_up(key)) for key in keys}}
