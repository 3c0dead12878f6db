"""The Optuna samplers of the algorithms."""

import warnings
from collections.abc import Sequence
from contextlib import suppress

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces.config import Algorithm, Grid, Nsga2, Random, Tpe


class _GridSampler(BruteForceSampler):
    """Makes every suggestion once, conditional ones too, also with ``ask`` and ``tell``."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``Study.optimize`` after the last suggestion. Without that loop, Optuna would raise."""
        with suppress(RuntimeError):
            super().after_trial(study, trial, state, values)


def make_sampler(algorithm: Algorithm, seed: int) -> BaseSampler:
    """The Optuna sampler of an algorithm."""
    with warnings.catch_warnings():  # parameter groups and the grid are experimental in the pinned version
        warnings.simplefilter("ignore", ExperimentalWarning)
        match algorithm:
            case Tpe():
                first = algorithm.n_startup_trials
                return TPESampler(seed=seed, n_startup_trials=first, multivariate=True, group=True, constant_liar=True)
            case Nsga2():
                return NSGAIISampler(seed=seed, population_size=algorithm.population_size)
            case Random():
                return RandomSampler(seed=seed)
            case Grid():
                return _GridSampler(seed=seed)
