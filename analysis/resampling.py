"""Intervals and nulls of figures that are not scores: bootstraps over units, permutations of labels.

A unit is what was drawn independently: a block of text, a prompt, a site. ``trainables.statistics`` has the paired
bootstrap of scores.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from trainables.statistics import TAIL, Array, Interval

RESAMPLES = 2000


def ratio(numerators: Array, denominators: Array, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Sum over sum, with a bootstrap interval over units.

    Args:
        numerators: (units,).
        denominators: (units,), of the same units; ones make it a mean.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    return statistic(
        lambda rows: rows[0].sum(axis=-1) / rows[1].sum(axis=-1), [numerators, denominators], resamples, seed
    )


def mean(values: Array, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over units, (units,), with a bootstrap interval."""
    return ratio(values, np.ones_like(values), resamples, seed)


def statistic(
    figure: Callable[[list[Array]], Array], columns: list[Array], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Any figure of columns over the same units, with a bootstrap interval that keeps units whole.

    Args:
        figure: takes the columns, each (resamples, units), and gives (resamples,).
        columns: each (units,).
        resamples: bootstrap draws.
        seed: of the draws.
    """
    n = len(columns[0])
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    value = figure([column[None] for column in columns])
    spread = figure([column[draws] for column in columns])
    low, high = np.quantile(spread, (TAIL, 1 - TAIL))
    return Interval(float(value[0]), float(low), float(high))


def p_value(observed: float, draws: Array) -> float:
    """Share of the null's draws that are at least as large, counting the observed one: never zero."""
    return float((1 + np.sum(draws >= observed)) / (1 + len(draws)))


def null_range(draws: Array) -> tuple[float, float]:
    """The middle 95% of a null's draws."""
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return float(low), float(high)


def chance_count(n: int, probability: float) -> tuple[float, float]:
    """How many of ``n`` independent tests come out by chance: the middle 95% of the binomial."""
    from scipy.stats import binom  # type: ignore[import-untyped]  # a second to import

    low, high = binom.ppf((TAIL, 1 - TAIL), n, probability)
    return float(low), float(high)


def between_groups(values: Array, groups: NDArray[np.int64]) -> float:
    """Share of the variance of ``values`` (units,) that lies between the means of their groups (eta squared)."""
    total = cast(float, ((values - values.mean()) ** 2).sum())
    within = sum(((part - part.mean()) ** 2).sum() for part in (values[groups == g] for g in np.unique(groups)))
    return float(1 - within / total) if total > 0 else 0.0


def permuted_groups(values: Array, groups: NDArray[np.int64], permutations: int = RESAMPLES, seed: int = 0) -> Array:
    """``between_groups`` under random relabellings of the units, (permutations,)."""
    rng = np.random.default_rng(seed)
    return np.array([between_groups(values, rng.permutation(groups)) for _ in range(permutations)])
