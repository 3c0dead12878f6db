"""MLflow is told beside the sweep: workers would wait for their next trial while the driver waits for MLflow."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from sweep.folder import TrialFolder
from sweep.tracking import Tracker

_LAST_SECONDS = 5.0


class Sender:
    """Sends trials in a thread of its own, one after another; what comes for a trial that waits goes with it.

    Args:
        tracker: that nobody else uses until ``close``.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._jobs: dict[Path, Future[bool]] = {}

    def send(self, trial: TrialFolder) -> None:
        """Have sent what MLflow does not have of a trial yet, as the trial's files are now or later."""
        job = self._jobs.get(trial.path)
        if job is None or job.running() or job.done():
            self._jobs[trial.path] = self._pool.submit(self._tracker.sync, trial)

    def close(self) -> None:
        """Send what waits, for some seconds; what is left is for ``sync_all``, now or when the sweep goes on.

        Raises:
            OSError: if a trial's files could not be read, or what was sent not be noted.
        """
        ended, _ = wait(self._jobs.values(), timeout=_LAST_SECONDS)
        self._pool.shutdown(cancel_futures=True)
        for job in ended:
            job.result()
