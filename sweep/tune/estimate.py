"""Estimates the time left in a sweep, from counted work and the speed of its trials so far.

Work is counted in floating-point operations: the training steps of each trial with its own biased sites, its
validations, its share of the test report, and shared results, which the first trial that needs them computes. The speed
is that of training and validation in one place. From the second trained trial on, the total is right to a factor of 1.5
if trials take minutes and places keep their speed. Loading models, writing files and, in a resumed sweep, test scores
of trials that ended before are not counted. A trial that ends early is counted to its end.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.sites import ModelShape, Site
from search_spaces.trial import TrialConfig
from trainables.cost import forward_flop, step_flop, steps_per_epoch, total_steps

TEACHER = "teacher"
"""Key of the test report's teacher statistics."""


@dataclass(frozen=True)
class Work:
    """Work of a trial.

    Attributes:
        steps: optimiser steps; zero without a bias.
        step: operations of one step.
        every: steps from one validation to the next.
        validation, test: operations to score the split.
        shared: operations of results that are computed once for all trials that need them, by what determines them.
        test_shared: as ``shared``, for the test report.
    """

    steps: int
    step: float
    every: int
    validation: float
    test: float
    shared: Mapping[str, float]
    test_shared: Mapping[str, float]

    def until(self, step: float) -> float:
        """Operations of training up to a step, with the validations on the way."""
        validations = step // self.every + (step == self.steps and step % self.every > 0) if self.steps else 0
        return step * self.step + validations * self.validation

    @property
    def own(self) -> float:
        """Operations of training and validation."""
        return self.until(self.steps)


def work_of(trial: TrialConfig, shape: ModelShape) -> Work:
    """Count the work of a trial on a model of a given shape."""
    training, blocks, length = trial.training, trial.corpus.blocks, trial.corpus.block_size
    steps = total_steps(blocks.calibration, training) if trial.sites else 0
    tokens = training.batch_size * training.gradient_accumulation_steps * length
    block, with_m = (forward_flop(shape, length, heads) for heads in (1, 2))
    plan = trial.plan.model_dump_json()
    shared = {"teacher of validation": blocks.validation * with_m, f"baseline {plan}": blocks.validation * block}
    if trial.sites:
        shared["teacher of calibration"] = blocks.calibration * with_m
        if training.init == "bias_correction":
            shared[f"start vectors {plan}"] = blocks.calibration * block
    if trial.plan.rule == "threshold":
        sites = " ".join(trial.plan.levels)
        shared[f"thresholds {sites}"] = min(trial.plan.calibration_blocks, blocks.calibration) * block
    return Work(
        steps=steps,
        step=step_flop(shape, tokens, map(Site.parse, trial.sites)) if trial.sites else 0.0,
        every=training.eval_every_steps or steps_per_epoch(blocks.calibration, training),
        validation=blocks.validation * block,
        test=blocks.test * block if trial.sites else 0.0,
        shared=shared,
        test_shared={TEACHER: blocks.test * with_m, plan: blocks.test * block},
    )


@dataclass
class _Trial:
    """Progress of a trial in a worker: the last step on record, and the steps heard of since."""

    step: float = 0.0
    now: float = 0.0
    first_heard: tuple[float, float] | None = None
    last_heard: tuple[float, float] | None = None
    trains: bool = False


class Estimate:
    """Estimates what is left of a stage of a sweep.

    Args:
        works: work of the known trials, by name.
        places: trials at once.
        n_trials: number of all trials; those not known yet count as the mean of the known ones.
        with_test: whether the test report follows.

    Attributes:
        start_seconds: time that workers took to start, assumed for those of the test report too.
    """

    def __init__(
        self, works: Mapping[str, Work], places: int, n_trials: int | None = None, with_test: bool = False
    ) -> None:
        self._works, self._places, self._with_test = dict(works), places, with_test
        self._n_trials = len(works) if n_trials is None else n_trials
        self._trials: dict[str, _Trial] = {}
        self._over: set[str] = set()
        self._made: set[str] = set()
        self._failed: set[str] = set()
        self._flop = self._seconds = 0.0
        self.start_seconds = 0.0

    def started(self, name: str, work: Work) -> None:
        """Record that a worker has the trial, for the first time or again."""
        self._works[name] = work
        self._over.discard(name)
        before = self._trials.get(name, _Trial())
        self._trials[name] = _Trial(before.step, before.step)

    def found(self, name: str, step: float) -> None:
        """Record that the trial continues from a step that was done before."""
        self._trials[name] = _Trial(step, step, trains=True)

    def trains(self, name: str, step: float, now: float) -> None:
        """Record that the trial was heard to reach a step, at a time in seconds."""
        trial, work = self._trials.get(name), self._works.get(name)
        if trial is None or work is None:
            return
        if not trial.trains:
            trial.trains = True
            self._made |= work.shared.keys()
        if trial.first_heard is None or step < trial.now:
            trial.first_heard = (step, now)
        if trial.last_heard is None or step != trial.now:
            trial.last_heard = (step, now)
        trial.now = step

    def validated(self, name: str, step: float, seconds: float) -> None:
        """Record a validation of the trial, and the seconds since the one before."""
        trial, work = self._trials.setdefault(name, _Trial()), self._works[name]
        self._made |= work.shared.keys()
        flop = work.until(step) - work.until(trial.step)
        if flop > 0:
            self._flop += flop
            self._seconds += seconds
        self._trials[name] = _Trial(step, step, trains=True)

    def ended(self, name: str, failed: bool = False) -> None:
        """Record that the trial has ended. What it did not do counts as done. A failed trial is not tested."""
        if failed:
            self._failed.add(name)
        self._trials.pop(name, None)
        self._over.add(name)

    @property
    def speed(self) -> float | None:
        """Operations per second in one place; None before the first steps."""
        flop, seconds = self._flop, self._seconds
        for name, trial in list(self._trials.items()):
            if trial.first_heard and trial.last_heard:
                (step, since), (now, until) = trial.first_heard, trial.last_heard
                flop += (now - step) * self._works[name].step
                seconds += until - since
        return flop / seconds if flop and seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Time until the trials, and the test report if there is one, have ended; None while the speed is unknown."""
        speed = self.speed
        if speed is None:
            return None
        running, waiting = self._left()
        trials = makespan(running, waiting, max(self._places, len(running))) / speed
        if not self._with_test:
            return trials
        tested = [work for name, work in list(self._works.items()) if name not in self._failed]
        return trials + self.start_seconds + report_flop(tested, self._places) / speed

    @property
    def share(self) -> float:
        """Share of the work done, in 0..1."""
        works = list(self._works.items())
        trials = {name: trial.now for name, trial in list(self._trials.items())}
        done = sum(work.own if name in self._over else work.until(trials.get(name, 0.0)) for name, work in works)
        total = sum(work.own for _, work in works) + self._unknown * self._mean
        return done / total if total else 0.0

    def _left(self) -> tuple[list[float], list[float]]:
        """Return the operations left in each running trial, and in each waiting one."""
        trials, made = dict(self._trials), set(self._made)
        running: list[float] = []
        waiting = [self._mean] * self._unknown
        for name in [*trials, *(name for name in list(self._works) if name not in trials)]:
            if name in self._over:
                continue
            work, trial = self._works[name], trials.get(name)
            missing = 0.0 if trial and trial.trains else sum(v for k, v in work.shared.items() if k not in made)
            made |= work.shared.keys()
            left = work.own - work.until(trial.now if trial else 0.0) + missing
            (waiting if trial is None else running).append(left)
        return running, waiting

    @property
    def _unknown(self) -> int:
        return max(0, self._n_trials - len(self._works))

    @property
    def _mean(self) -> float:
        works = list(self._works.values())
        return sum(work.own for work in works) / len(works) if works else 0.0


def report_flop(works: Sequence[Work], places: int, made: Collection[str] = ()) -> float:
    """Return the operations of a test report in sequence: the teacher, TEAL alone under each plan, and the trials.

    Args:
        works: work of the trials to score.
        places: trials at once.
        made: keys of shared results that are there already.
    """
    shared = {key: flop for work in works for key, flop in work.test_shared.items() if key not in made}
    teacher = shared.pop(TEACHER, 0.0)
    return teacher + makespan([], shared.values(), places) + makespan([], [work.test for work in works], places)


def makespan(running: Iterable[float], waiting: Iterable[float], places: int) -> float:
    """Return when the last job ends. Each running job has a place, and a free place takes the next waiting job."""
    free = sorted(running)
    free = [0.0] * (places - len(free)) + free
    for job in waiting:
        heapq.heapreplace(free, free[0] + job)
    return max(free, default=0.0)
