"""Intervals and nulls of figures that are not scores: jackknives over units, permutations of labels.

A unit is what was drawn independently: a document, a prompt, a site. A text has dozens of them at most, and the
percentiles of a bootstrap are then too narrow; Student's quantiles around a jackknife's error are not. That error is
known as well for the rare quantiles that several comparisons at once need, which a bootstrap's draws do not reach.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trainables.corpus import Blocks
from trainables.statistics import TAIL, Array, Interval

Units = NDArray[np.int64]
"""A label of each row: rows of one label are one unit."""

DRAWS = 2000
"""Of a null."""
_NOTHING = 1e-18
"""Of squares, relative to what they were before something was subtracted: rounding, and no variance."""


def units_of(blocks: Blocks) -> Units:
    """Blocks that share a document, directly or by way of others, are one unit: tokens of one article are not
    independent. (blocks,).
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # a second to import
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    documents = blocks.documents.numpy()
    rows = np.repeat(np.arange(len(documents)), documents.shape[1])
    holds = csr_matrix((np.ones(documents.size), (rows, documents.ravel())))
    labels: Units = connected_components(holds @ holds.T, directed=False)[1].astype(np.int64)
    return labels


def ratio(numerators: Array, denominators: Array, comparisons: int = 1, units: Units | None = None) -> Interval:
    """Sum over sum, with a jackknife interval over units; zero where the denominators are, as a share of nothing is.

    Args:
        numerators: (rows,).
        denominators: (rows,), of the same rows; ones make it a mean.
        comparisons: so many such intervals hold together (Bonferroni).
        units: of the rows; each is one by itself, by default.
    """
    if not denominators.any():
        return Interval(0.0, 0.0, 0.0)
    columns = [numerators, denominators]
    return statistic(lambda rows: rows[0].sum(axis=-1) / rows[1].sum(axis=-1), columns, comparisons, units)


def mean(values: Array, comparisons: int = 1, units: Units | None = None) -> Interval:
    """Mean over rows, (rows,), with a jackknife interval over units, which is Student's where each row is one."""
    return ratio(values, np.ones_like(values), comparisons, units)


def statistic(
    figure: Callable[[list[Array]], Array], columns: list[Array], comparisons: int = 1, units: Units | None = None
) -> Interval:
    """Any smooth figure of sums of columns over the same rows, with a jackknife interval that keeps units whole.

    The interval is without end if there is one unit, or if the figure does not exist without one of them.

    Args:
        figure: takes the columns, each (samples, units), and gives (samples,); of each it uses the sum alone.
        columns: each (rows,).
        comparisons: so many such intervals hold together (Bonferroni).
        units: of the rows; each is one by itself, by default.
    """
    if units is not None:
        places = np.unique(units, return_inverse=True)[1]
        columns = [np.bincount(places, weights=column).astype(np.float64) for column in columns]
    n = len(columns[0])
    others = np.arange(n - 1) + (np.arange(n - 1) >= np.arange(n)[:, None])  # a row a unit: all but that one
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure([column[None] for column in columns])[0])
        left = figure([column[others] for column in columns])
    return jackknife(value, left, comparisons)


def jackknife(value: float, left: Array, comparisons: int = 1) -> Interval:
    """Interval of a figure from its values without one unit each.

    Args:
        value: of all units.
        left: without each unit, (units,).
        comparisons: so many such intervals hold together (Bonferroni).
    """
    if len(left) < 2 or not np.isfinite(left).all():
        return Interval(value, -np.inf, np.inf)
    half = _student(len(left) - 1, comparisons) * float(np.sqrt((len(left) - 1) * left.var()))
    return Interval(value, value - half, value + half)


@cache
def _student(freedom: int, comparisons: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]  # a second to import

    return float(t.ppf(1 - TAIL / comparisons, freedom))


def p_value(observed: float, draws: Array) -> float:
    """Share of the null's draws that are at least as large, counting the observed one: never zero.

    One for a figure that does not exist, such as the kurtosis of a constant.
    """
    return 1.0 if np.isnan(observed) else float((1 + np.sum(draws >= observed)) / (1 + len(draws)))


def null_range(draws: Array) -> tuple[float, float]:
    """The middle 95% of a null's draws."""
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return float(low), float(high)


def chance_count(n: int, probability: float) -> tuple[float, float]:
    """How many of ``n`` independent tests come out by chance: the middle 95% of the binomial.

    Args:
        n: tests. Those of sites are independent under a null of vectors drawn at random, each by itself.
        probability: that one comes out under the null.
    """
    from scipy.stats import binom

    low, high = binom.ppf((TAIL, 1 - TAIL), n, probability)
    return float(low), float(high)


def between_groups(values: Array, groups: NDArray[np.int64], given: Array) -> Array:
    """Share of the variance that ``given`` leaves which the means of groups account for.

    With a constant as all that is given, it is eta squared.

    Args:
        values: (..., units).
        groups: label of each unit, (units,).
        given: what is taken out of both first, (units, features); a constant belongs to it.

    Returns:
        (...); zero where nothing is left.
    """
    labels = (groups[:, None] == np.unique(groups)).astype(np.float64)
    before = np.square(_rest(values, given)).sum(axis=-1)
    after = np.square(_rest(values, np.hstack([given, labels]))).sum(axis=-1)
    some = before > _NOTHING * np.square(values).sum(axis=-1)
    share = np.where(some, 1 - after / np.where(some, before, 1.0), 0.0)
    rounded: Array = share.round(12)  # so that equal shares are equal, and those of labels that add nothing zero
    return rounded


def permuted_groups(values: Array, groups: NDArray[np.int64], given: Array, draws: int = DRAWS, seed: int = 0) -> Array:
    """``between_groups`` if labels meant nothing: what ``given`` leaves of the values is shuffled (Freedman and Lane).

    Args:
        values: (units,).
        groups: (units,).
        given: (units, features), with a constant.
        draws: shuffles.
        seed: of the shuffles.

    Returns:
        (draws,).
    """
    rest = np.tile(_rest(values, given), (draws, 1))
    return between_groups(np.random.default_rng(seed).permuted(rest, axis=1), groups, given)


def _rest(values: Array, features: Array) -> Array:
    """What is left of values (..., units) after their projection on features (units, features)."""
    basis, sizes, _ = np.linalg.svd(features, full_matrices=False)
    basis = basis[:, sizes > 1e-10 * sizes[0]]
    rest: Array = values - (values @ basis) @ basis.T
    return rest
