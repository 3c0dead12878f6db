"""One line per event on the driver, with a share done and an estimate of what is left."""

import time

from search_spaces.schema import SpaceConfig, TrialConfig
from sweep.search.task import Counts
from trainables.schedule import total_steps

_BEAT_SECONDS = 30.0


class Progress:
    """Prints the events of a sweep, and returns each as it stands in the log of its trial.

    Args:
        space: gives the optimiser steps of a trial, the unit of the estimate. Validations are not counted apart.
    """

    def __init__(self, space: SpaceConfig) -> None:
        self._steps_per_trial = total_steps(space.corpus.blocks.calibration, space.training)
        self._begun = self._last = time.monotonic()
        self._steps: dict[str, float] = {}
        self._over: set[str] = set()
        self._last_kl: dict[str, float] = {}

    def started(self, config: TrialConfig) -> str:
        """A trial was given to a worker."""
        self._steps.setdefault(config.name, 0)
        return self._print(f"start  {config.name}  {len(config.sites)} sites, {config.n_spon_params} parameters")

    def validated(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        """A trial reported a validation."""
        return self._print(
            f"valid  {self._at(config, metrics)}  "
            f"KL {metrics['val_kl_nats']:.4f} nats ({metrics['val_kl_recovered']:+.1%} recovered)  "
            f"PPL {metrics['val_ppl']:.3f}"
        )

    def known(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        """A trial that was taken up came to a validation that is on record."""
        return self._print(f"again  {self._at(config, metrics)}  is on record")

    def _at(self, config: TrialConfig, metrics: dict[str, float]) -> str:
        """Note how far a trial is, and say it."""
        self._steps[config.name] = metrics["step"]
        self._last_kl[config.name] = metrics["val_kl_nats"]
        return f"{config.name}  step {metrics['step']:.0f}/{self._steps_per_trial if config.sites else 0}"

    def lost(self, config: TrialConfig, reason: str) -> str:
        """The worker or the node of a trial is gone, and Ray gives the trial to another."""
        return self._print(f"lost   {config.name}  it will go on from its last validation: {reason}")

    def finished(self, config: TrialConfig) -> str:
        """A trial is done and its checkpoint is stored."""
        self._over.add(config.name)
        return self._print(f"done   {config.name}")

    def stopped(self, config: TrialConfig) -> str:
        """A scheduler ended the trial early."""
        self._over.add(config.name)
        return self._print(f"stop   {config.name}  worse than others so far")

    def failed(self, config: TrialConfig, reason: str) -> str:
        """A trial failed for good."""
        self._over.add(config.name)
        return self._print(f"FAILED {config.name}  {reason}")

    @property
    def is_due(self) -> bool:
        """Whether nothing was printed for a while."""
        return time.monotonic() - self._last > _BEAT_SECONDS

    def beat(self, n_over: int, n_trials: int, proposals: Counts | None = None) -> None:
        """Print how far the sweep is.

        Args:
            n_over: trials that are over, those of an earlier process among them.
            n_trials: that there will be.
            proposals: what became of them, in a search.
        """
        running = len(self._steps.keys() - self._over)
        now = f"{running} running" if running else "workers are being set up"
        found = self._found(proposals) if proposals else ""
        left = self._left(n_trials - n_over + len(self._over))
        self._print(f"       {n_over} of {n_trials} trials over, {now}{found}{left}")

    def _found(self, proposals: Counts) -> str:
        best = min(((kl, name) for name, kl in self._last_kl.items() if name in self._over), default=None)
        return (f", best KL {best[0]:.5f} nats ({best[1]})" if best else "") + f"; {proposals.set_aside}"

    def _left(self, n_trials: int) -> str:
        """The time that is left for so many trials, those of this process that are over among them."""
        done, steps = sum(self._steps.values()), n_trials * self._steps_per_trial
        if not 0 < done < steps:
            return ""  # the first validation gives the first estimate
        return f", about {(time.monotonic() - self._begun) * (steps - done) / done / 60:.0f} min left"

    def _print(self, line: str) -> str:
        self._last = time.monotonic()
        minutes, seconds = divmod(int(self._last - self._begun), 60)
        print(f"{minutes:3d}:{seconds:02d}  {line}", flush=True)
        return line
