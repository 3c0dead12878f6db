"""The driver's callback for Ray Tune: record each event on disk, print and log one line, and send it to MLflow."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, TrialFolder
from sweep.store.tracking import Sender, Tracker
from sweep.terminal.display import follow, say
from sweep.tune.nodes import Nodes, noted_errors, reason
from sweep.tune.progress import Progress
from trainables.activity import tell
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import COMPLETE, FAILURE, NODE, VALIDATIONS


class SweepCallback(tune.Callback):
    """Writes results to the sweep's folder and passes them on.

    Args:
        folder: of the sweep.
        progress: of its trials.
        tracking_uri: of MLflow.
        nodes: faults of the sweep's nodes so far.
        searches: whether a searcher proposes the trials; it must learn of a failed one at once.

    Attributes:
        put_off: names of trials that Ray gave up but that run again, because their nodes were lost or at fault.
    """

    def __init__(
        self, folder: SweepFolder, progress: Progress, tracking_uri: str, nodes: Nodes, searches: bool = False
    ) -> None:
        self._folder, self._progress, self._tracking_uri = folder, progress, tracking_uri
        self._nodes, self._searches = nodes, searches
        self.put_off: set[str] = set()

    def setup(self, *args: Any, **info: Any) -> None:
        """Open MLflow and show the progress, in the driver."""
        self._sender = Sender(Tracker(self._tracking_uri, self._folder))
        follow(self._progress)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that the trial exists."""
        config, folder = self._of(trial)
        folder.start(config)
        self._tell(folder, self._progress.started(config))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a validation, or the reason for a failure."""
        if FAILURE in result:
            self._failed(trial, result[FAILURE])
            return
        self._nodes.worked(result[NODE])
        (config, folder), metrics = self._of(trial), result[VALIDATIONS][-1]
        is_new = folder.add_progress(*result[VALIDATIONS])  # earlier ones may have gone to a driver that was lost
        line = self._progress.validated(config, metrics) if is_new else self._progress.known(config, metrics)
        took, host, address = (result[key] for key in ("time_this_iter_s", "hostname", "node_ip"))
        self._tell(folder, f"{line}  in {took:.1f} s on {host} ({address}), process {result['pid']}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Store the checkpoint of a finished trial, or record that a scheduler stopped it."""
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
        """Report that a trial lost its worker and will continue in another."""
        self._lost(trial, self._nodes.recovered(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record the last line of the exception once Ray's retries are spent, unless the node was at fault."""
        again, out = self._nodes.gave_up(trial)
        if again and not self._searches:
            self.put_off.add(self._of(trial)[0].name)
            self._lost(trial, out)
        else:
            self._failed(trial, reason(trial), f"\n{noted_errors(trial)}")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Send what is queued for MLflow, which others may use afterwards."""
        follow(None)
        tell("sending results to MLflow")
        self._sender.close()

    def _lost(self, trial: Trial, out: str | None) -> None:
        """Record the loss. ``out`` says why a node was excluded, if one was."""
        config, folder = self._of(trial)
        folder.start(config)  # its worker may have been lost before the trial started
        self._tell(folder, self._progress.lost(config, reason(trial)))
        if out:
            say(out)

    def _failed(self, trial: Trial, why: str, details: str = "") -> None:
        config, folder = self._of(trial)
        folder.start(config)  # a worker that fails in its setup has not started the trial
        folder.fail(why)
        self._tell(folder, self._progress.failed(config, why) + details)

    def _tell(self, folder: TrialFolder, event: str) -> None:
        """Add an event to the trial's log and queue the trial for MLflow."""
        folder.note(event)
        self._sender.send(folder)

    def _of(self, trial: Trial) -> tuple[TrialConfig, TrialFolder]:
        config = TrialConfig.model_validate(trial.config["trial"])
        return config, self._folder.trial(config)
