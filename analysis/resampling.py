"""Intervals and nulls of figures that are not scores: jackknives over units, permutations of labels.

A unit is what was drawn independently: a document, a prompt, a site. A text has dozens of them at most, and the
percentiles of a bootstrap are then too narrow; Student's quantiles around a jackknife's error are not. Where a verdict
counts which of several things stand out, their p values are those of the whole family (``holm``).

``python -m tests.benchmarks.nulls`` simulates how often each null here and in the questions is rejected wrongly.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trainables.statistics import TAIL, Array, Interval
from trainables.text.corpus import Blocks

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


def ratio(numerators: Array, denominators: Array, units: Units | None = None) -> Interval:
    """Sum over sum, with a jackknife interval over units; zero where the denominators are, as a share of nothing is.

    Args:
        numerators: (rows,).
        denominators: (rows,), of the same rows; ones make it a mean.
        units: of the rows; each is one by itself, by default.
    """
    if not denominators.any():
        return Interval(0.0, 0.0, 0.0)
    columns = [numerators, denominators]
    return statistic(lambda rows: rows[0].sum(axis=-1) / rows[1].sum(axis=-1), columns, units)


def mean(values: Array, units: Units | None = None) -> Interval:
    """Mean over rows, (rows,), with a jackknife interval over units, which is Student's where each row is one."""
    return ratio(values, np.ones_like(values), units)


def statistic(figure: Callable[[list[Array]], Array], columns: list[Array], units: Units | None = None) -> Interval:
    """Any smooth figure of sums of columns over the same rows, with a jackknife interval that keeps units whole.

    The interval is without end if there is one unit, or if the figure does not exist without one of them.

    Args:
        figure: takes the columns, each (samples, units), and gives (samples,); of each it uses the sum alone.
        columns: each (rows,).
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
    return jackknife(value, left)


def jackknife(value: float, left: Array) -> Interval:
    """Interval of a figure from its values without one unit each.

    Args:
        value: of all units.
        left: without each unit, (units,).
    """
    if len(left) < 2 or not np.isfinite(left).all():
        return Interval(value, -np.inf, np.inf)
    half = _student(len(left) - 1) * float(np.sqrt((len(left) - 1) * left.var()))
    return Interval(value, value - half, value + half)


@cache
def _student(freedom: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]  # a second to import

    return float(t.ppf(1 - TAIL, freedom))


def p_of_zero(interval: Interval, units: int) -> float:
    """Chance to be as far from zero, either way, if zero is the truth; one for an interval without end.

    Args:
        interval: of a jackknife.
        units: that it is over.
    """
    from scipy.stats import t

    half = interval.high - interval.value
    if not 0 < half < np.inf:
        return float(half != 0 or interval.value == 0)
    return float(2 * t.sf(abs(interval.value) / half * _student(units - 1), units - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values of a family of tests, such that one of them is below .05 by chance in 5% of families (Holm, 1979).

    It holds however the tests depend on each other, as those of neighbouring layers do.
    """
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def p_value(observed: float, draws: Array) -> float:
    """Share of the null's draws that are at least as large, counting the observed one: never zero.

    One for a figure that does not exist, such as the kurtosis of a constant.
    """
    return 1.0 if np.isnan(observed) else float((1 + np.sum(draws >= observed)) / (1 + len(draws)))


def null_range(draws: Array) -> tuple[float, float]:
    """The middle 95% of a null's draws."""
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return float(low), float(high)


def depth_correlation(values: Array) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of figures of layers, in order, with their depth, and its 95% range if there is no trend.

    Layers are no independent draws: neighbours are alike, and what wanders slowly looks like a trend. The null is
    AR(1) noise. Its rho is the largest one of which fewer than 10% of series have so little correlation between
    neighbours, in the ranks less their straight line, as is seen: the estimate itself is too low in so few layers.

    Rejected wrongly at a nominal 5%, for rho = 0, .5 and .8: 0.9, 2.3 and 4.8% over 12 layers, 1.8, 2.2 and 3.4% over
    30. Others that were tried over 30 layers: shuffled depth 5, 24 and 49%; circular shifts 6, 12 and 23%; an effective
    number of layers (Quenouille) with a corrected rho 4, 7 and 10%.

    Args:
        values: (layers,), not all equal.
    """
    found, alike = _along_depth(values[None])
    least_alike, ends = _wandering(len(values))
    rho = np.interp(alike[0], least_alike, _RHOS)
    end = float(np.interp(rho, _RHOS, ends))
    return float(found[0]), (-end, end)


_RHOS = np.linspace(0, 0.95, 20)


@cache
def _wandering(layers: int) -> tuple[Array, Array]:
    """Of AR(1) noise, by its rho: the lowest tenth of its neighbours' correlation, and the 95th percentile of the
    magnitude of its correlation with depth, (rhos,) each.
    """
    from scipy.signal import lfilter  # type: ignore[import-untyped]  # a second to import

    shocks = np.random.default_rng(0).normal(size=(2 * DRAWS, layers))
    least_alike, ends = [], []
    for rho in _RHOS:
        start = shocks[:, :1] / np.sqrt(1 - rho**2)
        noise = lfilter([1.0], [1.0, -rho], np.hstack([start, shocks[:, 1:]]))
        found, alike = _along_depth(noise)
        least_alike.append(np.quantile(alike, 0.1))
        ends.append(np.quantile(np.abs(found), 1 - 2 * TAIL))
    return np.maximum.accumulate(least_alike), np.array(ends)


def _along_depth(values: Array) -> tuple[Array, Array]:
    """Of each series (series, layers): its rank correlation with depth, and the correlation of neighbours in what a
    straight line leaves of its ranks, zero where that is nothing; (series,) each.
    """
    from scipy.stats import rankdata

    ranks: Array = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    depth = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    slope, size = ranks @ depth / (depth @ depth), np.square(ranks).sum(axis=1)
    rest = ranks - slope[:, None] * depth
    left = np.square(rest).sum(axis=1)
    some = left > _NOTHING * size
    alike = np.where(some, (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.where(some, left, 1.0), 0.0)
    return slope * np.sqrt(depth @ depth / size), alike


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
