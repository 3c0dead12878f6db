"""Progress of trials on the driver: a line per event, and how far they all are."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.store.counts import Counts
from sweep.terminal.display import say
from sweep.terminal.view import Standing
from sweep.tune.estimate import Estimate, work_of
from trainables.activity import Activity


class Progress:
    """Reports trial events, formats them for the trial's log, and tracks overall progress.

    Args:
        shape: shape of the model, to count work.
        trials: trials to run, as far as they are known.
        places: trials at once.
        n_trials: number of all trials, including those that ended before.
        n_before: number of trials that ended before.
        counts: file of a searcher's counts, if the trials are its proposals.
        with_test: whether the test report follows.
    """

    def __init__(
        self,
        shape: ModelShape,
        trials: Sequence[TrialConfig],
        places: int = 1,
        n_trials: int | None = None,
        n_before: int = 0,
        counts: Path | None = None,
        with_test: bool = False,
    ) -> None:
        self._shape, self._n_before, self._counts = shape, n_before, counts
        self._n_trials = n_before + len(trials) if n_trials is None else n_trials
        works = {trial.name: work_of(trial, shape) for trial in trials}
        self._estimate = Estimate(works, places, self._n_trials - n_before, with_test)
        self._began = time.monotonic()
        self._total_steps: dict[str, int] = {}
        self._over: set[str] = set()
        self._best: dict[str, tuple[float, str]] = {}
        self._last: dict[str, Mapping[str, float]] = {}

    def started(self, config: TrialConfig) -> str:
        """Report that a worker has a trial."""
        work = work_of(config, self._shape)
        self._total_steps[config.name] = work.steps
        self._over.discard(config.name)
        self._estimate.started(config.name, work)
        return self._say(f"start  {config.name}  {len(config.sites)} sites, {config.n_spon_params} parameters")

    def validated(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        """Report a validation of a trial."""
        self._last[config.name] = metrics
        self._estimate.validated(config.name, metrics["step"], metrics["seconds"])
        return self._say(
            f"valid  {self._at(config, metrics)}  "
            f"KL {metrics['val_kl_nats']:.4f} nats ({metrics['val_kl_recovered']:+.1%} recovered)  "
            f"PPL {metrics['val_ppl']:.3f}"
        )

    def known(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        """Report that a resumed trial repeats a recorded validation."""
        self._last[config.name] = metrics
        self._estimate.found(config.name, metrics["step"])
        return self._say(f"again  {self._at(config, metrics)}  is already on record")

    def _at(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        return f"{config.name}  step {metrics['step']:.0f}/{self._total_steps[config.name]}"

    def lost(self, config: TrialConfig, reason: str) -> str:
        """Report that a trial lost its worker or node, and that Ray gives it to another."""
        self._estimate.started(config.name, work_of(config, self._shape))
        return self._say(f"lost   {config.name}  it will resume from its last validation: {reason}")

    def finished(self, config: TrialConfig) -> str:
        """Report that a trial is done and its checkpoint is stored."""
        if config.sites and (metrics := self._last.get(config.name)):
            plan, kl, recovered = config.plan_label, metrics["val_kl_nats"], metrics["val_kl_recovered"]
            line = f"{plan}: {config.allocation}, KL {kl:.5f} nats ({recovered:+.1%} recovered)"
            self._best[plan] = max(self._best.get(plan, (recovered, line)), (recovered, line))
        return self._end(config, f"done   {config.name}")

    def stopped(self, config: TrialConfig) -> str:
        """Report that a scheduler ended the trial early."""
        return self._end(config, f"stop   {config.name}  worse than others so far")

    def failed(self, config: TrialConfig, reason: str) -> str:
        """Report that a trial failed for good."""
        return self._end(config, f"FAILED {config.name}  {reason}", failed=True)

    def _end(self, config: TrialConfig, line: str, failed: bool = False) -> str:
        self._over.add(config.name)
        self._estimate.ended(config.name, failed)
        return self._say(line)

    @property
    def speed(self) -> float | None:
        """Operations per second in one place, if known."""
        return self._estimate.speed

    def heard(self, who: str, activity: Activity, now: float) -> None:
        """Record what a worker does."""
        self._estimate.start_seconds = self._estimate.start_seconds or now - self._began
        if activity.what == "training":
            self._estimate.trains(who, activity.done, now)

    def standing(self) -> Standing:
        """Return how far the trials are."""
        counts = Counts.read(self._counts) if self._counts else None
        over = counts.over if counts else self._n_before + len(self._over)
        text = f"{over} of {self._n_trials} trials done" + (f"; {counts.set_aside}" if counts else "")
        best = tuple(line for _, line in list(self._best.values()))
        return Standing(text, self._estimate.share, self._estimate.seconds_left, best)

    def _say(self, line: str) -> str:
        say(line)
        return line
