"""Progress of a sweep, from its folder alone: it may run in another process, or no longer run.

Time is that of training and validation, as trials report it. Loading a model is not counted.
"""

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import SponError
from sweep.search.status import search_lines
from sweep.store.folder import State, SweepFolder, TrialFolder
from sweep.store.lock import driver_of
from sweep.store.storage import writer_of
from sweep.terminal.display import ACTIVITY
from sweep.terminal.view import duration
from trainables.cost import total_steps

_OLD_SECONDS = 30.0
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
"""Starts each event in a log. Lines of a traceback have none."""
_ORDER = ("finished", "failed", "stopped", "running", "waiting")


@dataclass(frozen=True)
class TrialStatus:
    """One trial that has begun.

    Attributes:
        steps: optimiser steps at its last validation.
        total_steps: steps of the whole trial, unless it stops early.
        seconds: time taken so far.
        kl_nats: KL at its last validation.
    """

    name: str
    state: State
    steps: float
    total_steps: int
    seconds: float
    kl_nats: float | None
    failure: str


@dataclass(frozen=True)
class Status:
    """Progress of a sweep.

    Attributes:
        trials: trials that have begun.
        waiting: optimiser steps of each trial that has not begun, by name.
        quiet_seconds: time since the last sign of life on disk; None before the first.
        max_concurrent: most trials at once, if limited.
        price_per_hour: price of a trial's place, if given.
        gpus_per_trial: GPUs that a running trial holds; how busy they are is unknown.
        search: lines about the stages of a search; none for a grid.
        now: lines about what the driver and its workers do now.
        driver: who drives it; if None, running trials are interrupted.
    """

    name: str
    trials: tuple[TrialStatus, ...]
    waiting: dict[str, int]
    quiet_seconds: float | None
    max_concurrent: int | None
    price_per_hour: float | None
    gpus_per_trial: float = 0.0
    search: tuple[str, ...] = ()
    now: tuple[str, ...] = ()
    driver: str | None = None

    @property
    def states(self) -> Counter[str]:
        """Number of trials in each state."""
        return Counter(trial.state for trial in self.trials) + Counter(waiting=len(self.waiting))

    @property
    def seconds(self) -> float:
        """Time taken so far, summed over trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def at_once(self) -> int:
        """Trials running at once; if none runs, how many may start."""
        return self.states["running"] or min(self.states["waiting"], self.max_concurrent or 1)

    @property
    def steps_per_second(self) -> float | None:
        """Mean speed of a trial; None before the first validation of a trial that trains."""
        trained = [trial for trial in self.trials if trial.steps]
        seconds = sum(trial.seconds for trial in trained)
        return sum(trial.steps for trial in trained) / seconds if seconds else None

    @property
    def steps_left(self) -> float:
        """Optimiser steps left in running and waiting trials."""
        running = [trial for trial in self.trials if trial.state == "running"]
        return sum(trial.total_steps - trial.steps for trial in running) + sum(self.waiting.values())

    @property
    def seconds_left(self) -> float | None:
        """Time left, summed over trials; None while the speed is unknown."""
        return self.steps_left / self.steps_per_second if self.steps_per_second else None


def status_of(folder: SweepFolder) -> Status:
    """Read the progress of a sweep."""
    space, planned, begun = folder.space, folder.planned, folder.trials
    whole = total_steps(space.corpus.blocks.calibration, space.training)
    trials = tuple(_trial(trial, planned.get(trial.path.name, whole)) for trial in begun)
    names = {trial.name for trial in trials}
    signs = [sign for path in (folder.path, *(t.path for t in begun)) if (sign := _last_sign(path)) is not None]
    return Status(
        name=folder.name,
        trials=trials,
        waiting={name: steps for name, steps in planned.items() if name not in names},
        quiet_seconds=max(0.0, time.time() - max(signs)) if signs else None,
        max_concurrent=space.resources.max_concurrent,
        price_per_hour=space.resources.price_per_hour,
        gpus_per_trial=space.resources.gpus_per_trial,
        search=tuple(search_lines(folder)),
        now=_now(folder.path / ACTIVITY),
        driver=str(driver_of(folder.path) or "") or writer_of(folder.path),
    )


def _now(file: Path) -> tuple[str, ...]:
    """Return what the driver shows now, with its age if it is old, because the driver may have been killed."""
    try:
        view = json.loads(file.read_text())
    except FileNotFoundError:  # no driver runs
        return ()
    age = time.time() - view["at"]
    old = f" (said {duration(age)} ago)" if age > _OLD_SECONDS else ""
    head = ", ".join(filter(None, (view["text"], view["left"])))
    return f"now: {head}{old}", *(f"  {who}: {what}" for who, what in view["workers"])


def _trial(folder: TrialFolder, steps: int) -> TrialStatus:
    state, progress = folder.state, folder.progress
    last = progress[-1] if progress else {}
    return TrialStatus(
        name=folder.path.name,
        state=state,
        steps=last.get("step", 0.0),
        total_steps=steps,
        seconds=sum(metrics.get("seconds", 0.0) for metrics in progress),
        kl_nats=last.get("val_kl_nats"),
        failure=folder.failure if state == "failed" else "",
    )


def _last_sign(folder: Path) -> float | None:
    files = (folder / name for name in (ACTIVITY, "trial.json", "progress.jsonl", "failure.txt", "stopped.txt"))
    return max((file.stat().st_mtime for file in files if file.exists()), default=None)


def log_lines(folder: SweepFolder, beginning: str = "") -> list[str]:
    """Return the log of the trials whose names start with ``beginning``, in chronological order.

    Raises:
        SponError: if no trial's name does.
    """
    logs = [trial.log_path for trial in folder.trials if trial.path.name.startswith(beginning)]
    if not logs:
        there = ", ".join(trial.path.name for trial in folder.trials) or "none yet"
        raise SponError(f"a trial must be one of {there}, but got {beginning!r} (at {folder.path})")
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    return lines if len(logs) == 1 else sorted(line for line in lines if _STAMP.match(line))


def as_lines(status: Status) -> list[str]:
    """Format a status: totals, a search's stages, GPUs, running and failed trials, speed, time and cost."""
    states, total = status.states, sum(status.states.values())
    under_way = "running" if status.driver else "interrupted"
    words = {state: under_way if state == "running" else state for state in _ORDER}
    counts = ", ".join(f"{states[state]} {words[state]}" for state in _ORDER if states[state]) or "none yet"
    sign = "" if status.quiet_seconds is None else f"; last sign of life {duration(status.quiet_seconds)} ago"
    lines = [f"{status.name}: {total} trials: {counts}{sign}", *status.search, *status.now]
    if status.driver:
        lines.append(f"driver: {status.driver}")
    elif states["running"] or states["waiting"]:
        lines.append(f"no driver; resume with: python -m sweep resume {status.name}")
    if status.gpus_per_trial and states["running"] and status.driver:
        lines.append(f"GPUs: {states['running'] * status.gpus_per_trial:g} held by running trials")
    for trial in status.trials:
        if trial.state == "running":
            kl = "" if trial.kl_nats is None else f"  KL {trial.kl_nats:.4f} nats"
            lines.append(f"  {under_way}  {trial.name}  step {trial.steps:.0f}/{trial.total_steps}{kl}")
        if trial.state == "failed":
            lines.append(f"  FAILED   {trial.name}  {trial.failure}")
    if status.steps_per_second is None:
        lines.append("speed and time left: not known before the first validation of a trial that trains")
        return lines
    lines.append(f"speed: {status.steps_per_second:.3g} steps/s a trial, {_per_hour(status)}{status.at_once} at once")
    left, at_once = status.seconds_left or 0.0, max(1, status.at_once)
    known = " known so far" if status.search else ""
    lines.append(
        f"left: about {duration(left / at_once)}; {_hours(left)} of trials{known}, after {_hours(status.seconds)}"
    )
    if status.price_per_hour is not None:
        left_cost, cost = (seconds / 3600 * status.price_per_hour for seconds in (left, status.seconds))
        lines.append(
            f"cost left: about {left_cost:.2f}, after {cost:.2f} (at {status.price_per_hour:g} an hour a trial)"
        )
    return lines


def _per_hour(status: Status) -> str:
    """Format how many trials end per hour, estimated from those that trained to their end."""
    ended = [trial.seconds for trial in status.trials if trial.state == "finished" and trial.steps]
    return f"{3600 * status.at_once * len(ended) / sum(ended):.3g} trials/h, " if ended and status.at_once else ""


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h"
