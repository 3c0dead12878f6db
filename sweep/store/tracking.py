"""Sends a sweep's folder to MLflow: one parent run per sweep, one child run per trial.

What was sent is recorded beside each trial, so ``sync`` sends only what is new. After a restart, or an outage of the
server, it continues where it stopped, and no trial gets a second run. An MLflow that does not answer never stops a
sweep.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_METRICS_PER_BATCH

from search_spaces.config import SpaceConfig
from search_spaces.files import write_whole
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from sweep.store.folder import State, SweepFolder, TrialFolder
from sweep.terminal.display import say
from trainables.checkpoint import read_checkpoint
from trainables.quiet import hush
from trainables.selection import SELECTION
from trainables.tracking import CHECKPOINT_ARTIFACT, EXPERIMENT, SWEEP_TAG, TRIAL_TAG, bound_waiting

_SENT, _PARENT = "mlflow.json", "parent.json"
_ARTIFACTS = ("board.*", "frontier.*", "levels.*", "search_*.png", "findings.*", "masks.jsonl", SELECTION)
"""Files of a whole sweep, for its parent run."""
_STATUS: dict[State, str] = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_NO_SUCH_RUN = "RESOURCE_DOES_NOT_EXIST"
_LAST_SECONDS = 5.0
"""Time that a stage waits for MLflow at its end."""

hush()
bound_waiting()


class Tracker:
    """Sends a sweep to the MLflow at a tracking URI."""

    def __init__(self, uri: str, folder: SweepFolder) -> None:
        self._client = MlflowClient(uri)
        self._folder = folder
        self._artifacts = None if uri.startswith("http") else (folder.path.parent / "mlartifacts").resolve().as_uri()
        self._may_have_more = (folder.path / _PARENT).exists()  # than is recorded, if the last process was killed
        self._warned = self._checked = False
        self._running: set[str] = set()

    def sync(self, trial: TrialFolder) -> bool:
        """Send what MLflow lacks of a trial, unless it is auxiliary. False if MLflow did not answer."""
        return trial.is_auxiliary or self._answered(lambda: self._sync(trial))

    def sync_all(self) -> bool:
        """Send all trials, then the sweep's board, and end the parent run. False if MLflow did not answer."""
        trials = self._folder.trials
        return all([self.sync(trial) for trial in trials]) and self._answered(lambda: self._end(trials))

    def stop(self) -> None:
        """Mark running trials as stopped, because their driver ends."""
        self._answered(self._stop)

    def _answered(self, send: Callable[[], None]) -> bool:
        """Send, and return whether MLflow accepted it. Report the first failure.

        A server, its artifact store and their client libraries fail in many ways, and none may stop a sweep.
        """
        try:
            self._forget_lost_runs()
            send()
        except Exception as error:
            if isinstance(error, OSError) and str(self._folder.path) in str(error.filename):
                raise  # the sweep's own disk
            self._may_have_more = True  # the server may have acted even if its answer was lost
            if not self._warned:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                say(f"MLflow does not answer; results are kept in {self._folder.path} for `sweep sync`: {reason}")
            self._warned = True
            return False
        return True

    def _forget_lost_runs(self) -> None:
        """Drop the records of what was sent if MLflow lacks the sweep's run, as another machine's database does."""
        if self._checked:
            return
        file = self._folder.path / _PARENT
        try:
            if file.exists():
                self._client.get_run(self._parent())
        except MlflowException as error:
            if error.error_code != _NO_SUCH_RUN:
                raise
            for record in (*self._folder.path.glob(f"trials/*/{_SENT}"), file):
                record.unlink()
        self._checked = True

    def _end(self, trials: list[TrialFolder]) -> None:
        parent = self._parent()
        for pattern in _ARTIFACTS:
            for file in self._folder.path.glob(pattern):
                self._client.log_artifact(parent, str(file))
        states = {trial.state for trial in trials}
        if "running" in states:  # without a driver
            self._stop()
        else:
            self._client.set_terminated(parent, "FAILED" if "failed" in states else "FINISHED")

    def _stop(self) -> None:
        for trial in self._folder.trials:
            if trial.state == "running" and (run := _sent(trial).get("run")):
                self._client.set_terminated(run, "KILLED")
        self._client.set_terminated(self._parent(), "KILLED")

    def _go_on(self, run: str) -> None:
        """Mark a run as running again, because an earlier driver may have marked it as stopped."""
        if run not in self._running:
            self._client.update_run(run, "RUNNING")
            self._running.add(run)

    def _sync(self, trial: TrialFolder) -> None:
        file, sent = trial.path / _SENT, _sent(trial)
        state, progress = trial.state, trial.progress
        if "run" not in sent:
            sent["run"] = self._child(trial.config)
        elif state == "running":
            self._go_on(self._parent())
            self._go_on(sent["run"])
        run = sent["run"]
        # Recorded before it is sent: MLflow stores a repeated metric of the same time once
        now = sent.setdefault("now", int(time.time() * 1000))
        write_whole(file, json.dumps(sent))
        self._log(run, now, [(int(metrics["step"]), metrics) for metrics in progress[sent["lines"] :]])
        sent["lines"] = len(progress)
        if state == "finished":
            final = read_checkpoint(trial.checkpoint_path).meta.metrics
            if sorted(final) != sent["final"]:
                self._log(run, now, [(int(progress[-1]["step"]), final)])
                self._client.log_artifacts(run, str(trial.checkpoint_path), CHECKPOINT_ARTIFACT)
                sent["final"] = sorted(final)
        if state == "failed":
            self._client.set_tag(run, "failure", trial.failure[:500])
        if state != sent["state"] and state != "running":
            if trial.log_path.exists():
                self._client.log_artifact(run, str(trial.log_path))
            self._client.set_terminated(run, _STATUS[state])
        sent["state"] = state
        del sent["now"]
        write_whole(file, json.dumps(sent))

    def _log(self, run: str, now: int, steps: list[tuple[int, dict[str, float]]]) -> None:
        """Log metrics of some steps in the largest batches that MLflow takes: a call costs more than its content."""
        metrics = [Metric(key, value, now, step) for step, values in steps for key, value in values.items()]
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])

    @cached_property
    def _experiment(self) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        return known.experiment_id if known else self._client.create_experiment(EXPERIMENT, self._artifacts)

    def _parent(self) -> str:
        """Return the sweep's run, found by its file or its tag, or created."""
        file = self._folder.path / _PARENT
        if file.exists():
            return str(json.loads(file.read_text())["run"])
        identity = {SWEEP_TAG: self._folder.id}
        run = self._find(identity)
        if run:
            self._may_have_more = True
        else:
            run = self._create(self._folder.name, identity)
        self._client.log_batch(run, params=_as_params(_sweep_params(self._folder.space)))
        write_whole(file, json.dumps({"run": run}))
        return run

    def _child(self, config: TrialConfig) -> str:
        """Return a trial's run under the parent, found by its tags, or created."""
        identity = {MLFLOW_PARENT_RUN_ID: self._parent(), TRIAL_TAG: config.identity}
        labels = {"spon.allocation": config.allocation, "spon.plan": config.plan_label}
        run = self._find(identity) if self._may_have_more else None
        run = run or self._create(config.name, identity | labels)
        self._client.log_batch(run, params=_as_params(trial_params(config)))
        return run

    def _find(self, tags: dict[str, str]) -> str | None:
        condition = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self._experiment], condition, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)


def _sent(trial: TrialFolder) -> dict[str, Any]:
    """Return what MLflow has of a trial: its ``run``, ``lines`` of progress, ``state`` and ``final`` metrics."""
    file = trial.path / _SENT
    return dict(json.loads(file.read_text())) if file.exists() else {"lines": 0, "state": None, "final": []}


class Sender:
    """Sends trials in a separate thread, so that workers do not wait for their next trial while MLflow is slow.

    Later results of a queued trial are sent with it.

    Args:
        tracker: must not be used elsewhere until ``close``.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._jobs: dict[Path, Future[bool]] = {}

    def send(self, trial: TrialFolder) -> None:
        """Queue what MLflow lacks of a trial. The trial's files are read when it is sent."""
        job = self._jobs.get(trial.path)
        if job is None or job.running() or job.done():
            self._jobs[trial.path] = self._pool.submit(self._tracker.sync, trial)

    def close(self) -> None:
        """Send queued trials for some seconds, and leave the rest to ``sync_all``, now or after a resume.

        Raises:
            OSError: if a trial's files could not be read or written.
        """
        ended, _ = wait(self._jobs.values(), timeout=_LAST_SECONDS)
        self._pool.shutdown(cancel_futures=True)
        for job in ended:
            job.result()


def trial_params(config: TrialConfig) -> dict[str, object]:
    """Return params that the compare view can plot or group by. One 0/1 param per layer says where the biases are."""
    sites = [Site.parse(site) for site in config.sites]
    layers = {site.layer for site in sites}
    training = config.training
    return {
        "model": config.model.source,
        "dtype": config.model.dtype,
        "corpus": config.corpus.source,
        "allocation": config.allocation,
        "plan": config.plan_label,
        "rule": config.plan.rule,
        "sparsity": config.sparsity,
        "modules": "+".join(dict.fromkeys(site.module for site in sites)) or "none",
        "n_spon_layers": len(layers),
        "n_spon_params": config.n_spon_params,
        "relative_params": round(config.relative_params, 6),
        "form": training.form,
        "lr": training.lr,
        "schedule": training.schedule,
        "epochs": training.epochs,
        "batch_size": training.batch_size * training.gradient_accumulation_steps,
        "seed": training.seed,
        **{f"layer_{layer:02d}": int(layer in layers) for layer in range(config.num_layers)},
    }


def _sweep_params(space: SpaceConfig) -> dict[str, object]:
    return {
        "model": space.model.source,
        "corpus": space.corpus.source,
        "sparsity": list(space.sparsity),
        "allocations": ", ".join(allocation.label for allocation in space.allocations),
        "seeds": list(space.seeds),
    }


def _as_params(values: dict[str, object]) -> list[Param]:
    return [Param(key, str(value)) for key, value in values.items()]
