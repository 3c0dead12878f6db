"""What the driver does at each event of Ray Tune: keep it on disk, print and log one line, send it to MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from search_spaces.schema import TrialConfig
from search_spaces.sites import ModelShape
from sweep.display import follow
from sweep.folder import SweepFolder, TrialFolder
from sweep.progress import Progress
from sweep.sender import Sender
from sweep.tracking import Tracker
from trainables.activity import tell
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import COMPLETE, FAILURE, VALIDATIONS

_KEPT = ("_folder", "_shape", "_tracking_uri", "_n_trials", "_counts", "_n_before", "_places", "_with_test")


class SweepCallback(tune.Callback):
    """Writes results to the sweep's folder and passes them on.

    It holds no state that is not on disk: Ray pickles it, for whoever restores Ray's part of the sweep by hand.

    Args:
        folder: of the sweep.
        shape: of the model.
        tracking_uri: of MLflow.
        trials: that Ray is given, unless it is given them one by one.
        n_trials: that will come, where Ray is given them one by one.
        counts: file of a searcher's counts, if the trials are its proposals.
        n_before: trials that were over before, and which Ray is not given.
        places: trials at once.
        with_test: whether the test report is to come after them.
    """

    _trials: Sequence[TrialConfig] = ()  # of a grid, which is never restored

    def __init__(
        self,
        folder: SweepFolder,
        shape: ModelShape,
        tracking_uri: str,
        trials: Sequence[TrialConfig] = (),
        n_trials: int | None = None,
        counts: Path | None = None,
        n_before: int = 0,
        places: int = 1,
        with_test: bool = False,
    ) -> None:
        self._folder, self._shape, self._tracking_uri, self._trials = folder, shape, tracking_uri, trials
        self._n_trials, self._counts, self._n_before = n_trials, counts, n_before
        self._places, self._with_test = places, with_test

    def setup(self, *args: Any, **info: Any) -> None:
        """Open MLflow and show the progress, in the driver that runs the sweep."""
        self._sender = Sender(Tracker(self._tracking_uri, self._folder))
        self._progress = Progress(
            self._shape, self._trials, self._places, self._n_trials, self._n_before, self._counts, self._with_test
        )
        follow(self._progress)

    @property
    def speed(self) -> float | None:
        """Operations a second in one place, for what comes after the trials; None if it is not known."""
        return self._progress.speed

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT}

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
        (config, folder), metrics = self._of(trial), result[VALIDATIONS][-1]
        is_new = folder.add_progress(*result[VALIDATIONS])  # a driver that was lost may have had the earlier ones
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
            assert trial.checkpoint is not None
            with trial.checkpoint.as_directory() as files:
                folder.store(read_checkpoint(Path(files)))
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
        follow(None)
        tell("telling MLflow")
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
