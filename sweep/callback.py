"""What the driver does at each event of Ray Tune: keep it on disk, print and log one line, send it to MLflow."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from search_spaces.schema import TrialConfig
from sweep.folder import SweepFolder, TrialFolder
from sweep.progress import Progress
from sweep.search.task import Counts
from sweep.sender import Sender
from sweep.tracking import Tracker
from trainables.ray_trainable import COMPLETE, FAILURE, METRICS, STATE

_KEPT = ("_folder", "_tracking_uri", "_n_trials", "_counts", "_n_before")


class SweepCallback(tune.Callback):
    """Writes results to the sweep's folder and passes them on.

    It holds no state that is not on disk, so that Ray can pickle it and a restored sweep goes on with it.

    Args:
        folder: of the sweep.
        tracking_uri: of MLflow.
        n_trials: that will come, where Ray is given them one by one; else those that it was given.
        counts: file of a searcher's counts, if the trials are its proposals.
        n_before: trials that were over before, and which Ray is not given.
    """

    def __init__(
        self,
        folder: SweepFolder,
        tracking_uri: str,
        n_trials: int | None = None,
        counts: Path | None = None,
        n_before: int = 0,
    ) -> None:
        self._folder, self._tracking_uri = folder, tracking_uri
        self._n_trials, self._counts, self._n_before = n_trials, counts, n_before

    def setup(self, *args: Any, **info: Any) -> None:
        """Open MLflow and the progress line, in the driver that runs the sweep."""
        self._sender = Sender(Tracker(self._tracking_uri, self._folder))
        self._progress = Progress(self._folder.space)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Print a sign of life now and then."""
        if self._progress.is_due:
            over = self._n_before + sum(trial.is_finished() for trial in trials)
            proposals = Counts.read(self._counts) if self._counts else None
            self._progress.beat(over, self._n_trials or self._n_before + len(trials), proposals)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that the trial exists."""
        config, folder = self._of(trial)
        folder.start(config)
        self._tell(folder, self._progress.started(config))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a validation, or the reason of a failure."""
        if FAILURE in result:
            self._failed(trial, result[FAILURE])
            return
        (config, folder), metrics = self._of(trial), dict(result[METRICS])
        is_new = folder.add_progress(metrics)
        line = self._progress.validated(config, metrics) if is_new else self._progress.known(config, metrics)
        took, host, address = (result[key] for key in ("time_this_iter_s", "hostname", "node_ip"))
        self._tell(folder, f"{line}  in {took:.1f} s on {host} ({address}), process {result['pid']}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take over the checkpoint of a trial that came to its end."""
        config, folder = self._of(trial)
        if folder.state == "failed":
            return
        if not trial.last_result.get(COMPLETE):
            folder.stop()
            self._tell(folder, self._progress.stopped(config))
            return
        if folder.state != "finished":
            folder.finish(Path(trial.last_result[STATE]))
        self._tell(folder, self._progress.finished(config))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Say that a trial lost its worker and will go on in another."""
        config, folder = self._of(trial)
        folder.start(config)  # its worker may have been lost before it had started
        self._tell(folder, self._progress.lost(config, _error(trial).splitlines()[-1]))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record the last line of the exception, when Ray's retries are spent."""
        error = _error(trial)
        self._failed(trial, error.splitlines()[-1], f"\n{error}")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Let MLflow have what waits; after this it is for others to use."""
        self._sender.close()

    def _failed(self, trial: Trial, reason: str, details: str = "") -> None:
        config, folder = self._of(trial)
        folder.start(config)  # a worker that could not be set up fails before its trial has started
        folder.fail(reason)
        self._tell(folder, self._progress.failed(config, reason) + details)

    def _tell(self, folder: TrialFolder, event: str) -> None:
        """Put an event into the trial's log, and have MLflow told."""
        folder.note(event)
        self._sender.send(folder)

    def _of(self, trial: Trial) -> tuple[TrialConfig, TrialFolder]:
        config = TrialConfig.model_validate(trial.config["trial"])
        return config, self._folder.trial(config)


def _error(trial: Trial) -> str:
    """All errors that Ray noted of a trial, the last one last."""
    return Path(trial.error_file).read_text().strip() if trial.error_file else "no error file"
