"""Intervals and nulls of figures that are not scores: jackknives over units, permutations of labels.

A unit is what was drawn independently: a document, a prompt, a site. A text has at most dozens of them. Bootstrap
percentiles are then too narrow, while Student's quantiles around a jackknife's error are not. If a verdict counts
which of several things stand out, their p values are adjusted for the whole family (``holm``).

``python -m tests.benchmarks.nulls`` simulates how often each null here and in the questions is rejected wrongly.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trainables.statistics import TAIL, Array, Interval
from trainables.text.corpus import Blocks

Units = NDArray[np.int64]
"""A label for each row. Rows with the same label form one unit."""

DRAWS = 2000
"""Draws from a null."""
_NOTHING = 1e-18
"""Relative size of squares after a subtraction below which they are rounding error and not variance."""


def units_of(blocks: Blocks) -> Units:
    """Group blocks that share a document, directly or through other blocks, into units, (blocks,): tokens of one
    article are not independent.
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # a second to import
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    documents = blocks.documents.numpy()
    rows = np.repeat(np.arange(len(documents)), documents.shape[1])
    holds = csr_matrix((np.ones(documents.size), (rows, documents.ravel())))
    labels: Units = connected_components(holds @ holds.T, directed=False)[1].astype(np.int64)
    return labels


def ratio(numerators: Array, denominators: Array, units: Units | None = None) -> Interval:
    """Return the ratio of two sums over rows, with a jackknife interval over units; zero if all denominators are zero.

    By default each row is a unit. All arguments are (rows,).
    """
    if not denominators.any():
        return Interval(0.0, 0.0, 0.0)
    columns = [numerators, denominators]
    return statistic(lambda rows: rows[0].sum(axis=-1) / rows[1].sum(axis=-1), columns, units)


def mean(values: Array, units: Units | None = None) -> Interval:
    """Return the mean over rows, (rows,), with a jackknife interval over units: Student's if each row is a unit."""
    return ratio(values, np.ones_like(values), units)


def ratios_apart(one: tuple[Array, Array], other: tuple[Array, Array], units: Units | None = None) -> Interval:
    """Return one ratio of sums over rows minus another, each of numerators and denominators as ``ratio`` takes them."""

    def figure(columns: list[Array]) -> Array:
        above, below, above_other, below_other = (column.sum(axis=-1) for column in columns)
        apart: Array = above / below - above_other / below_other
        return apart

    return statistic(figure, [*one, *other], units)


def statistic(figure: Callable[[list[Array]], Array], columns: list[Array], units: Units | None = None) -> Interval:
    """Return a smooth function of sums of columns over the same rows, with a jackknife interval that keeps units whole.

    The interval is infinite if there is one unit, or if the figure is not finite when some unit is left out.

    Args:
        figure: maps the columns, each (samples, units), to (samples,), using only the sum of each.
        columns: each (rows,).
        units: of the rows; by default each row is a unit.
    """
    if units is not None:
        places = np.unique(units, return_inverse=True)[1]
        columns = [np.bincount(places, weights=column).astype(np.float64) for column in columns]
    n = len(columns[0])
    others = np.arange(n - 1) + (np.arange(n - 1) >= np.arange(n)[:, None])  # one row for each unit: all the others
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure([column[None] for column in columns])[0])
        left = figure([column[others] for column in columns])
    return jackknife(value, left)


def jackknife(value: float, left: Array) -> Interval:
    """Return the interval of a figure from its values with each unit left out, (units,)."""
    if len(left) < 2 or not np.isfinite(left).all():
        return Interval(value, -np.inf, np.inf)
    half = _student(len(left) - 1) * float(np.sqrt((len(left) - 1) * left.var()))
    return Interval(value, value - half, value + half)


@cache
def _student(freedom: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]  # a second to import

    return float(t.ppf(1 - TAIL, freedom))


def p_of_zero(interval: Interval, units: int) -> float:
    """Return the two-sided p value of zero for a jackknife interval over some units; one for an infinite interval."""
    from scipy.stats import t

    half = interval.high - interval.value
    if not 0 < half < np.inf:
        return float(half != 0 or interval.value == 0)
    return float(2 * t.sf(abs(interval.value) / half * _student(units - 1), units - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family of tests, so that 5% of families have one below .05 by chance (Holm, 1979).

    This holds for any dependence between tests, such as that of neighbouring layers.
    """
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def p_value(observed: float, draws: Array) -> float:
    """Return the share of draws at least as large as observed, counting the observed value, so that it is never zero.

    It is one for a figure that does not exist, such as the kurtosis of a constant.
    """
    return 1.0 if np.isnan(observed) else float((1 + np.sum(draws >= observed)) / (1 + len(draws)))


def null_range(draws: Array) -> tuple[float, float]:
    """Return the ends of the middle 95% of a null's draws."""
    low, high = np.quantile(draws, (TAIL, 1 - TAIL))
    return float(low), float(high)


def range_of_one_more(draws: Array) -> tuple[float, float]:
    """95% range of one more draw beside these, by Student's prediction interval: for nulls of few draws."""
    half = _student(len(draws) - 1) * error_of_one_more(draws)
    return float(draws.mean()) - half, float(draws.mean()) + half


def error_of_one_more(draws: Array) -> float:
    """Standard error of one more draw around the mean of these."""
    return float(draws.std(ddof=1) * np.sqrt(1 + 1 / len(draws)))


def depth_correlation(values: Array) -> tuple[float, tuple[float, float]]:
    """Return Spearman's correlation of layers' figures with depth, and its 95% range if there is no trend.

    Layers are not independent draws: neighbours are alike, and slow wandering looks like a trend. So the null is AR(1)
    noise. A direct estimate of its rho is too low for so few layers. The null takes the largest rho at which fewer than
    10% of series have a correlation of neighbours, in the detrended ranks, as low as observed.

    False rejections at a nominal 5%, for rho = 0, .5 and .8: 0.9, 2.3 and 4.8% over 12 layers, 1.8, 2.2 and 3.4% over
    30. Rejected alternatives over 30 layers: shuffled depth 5, 24 and 49%; circular shifts 6, 12 and 23%; an effective
    number of layers (Quenouille) with a corrected rho 4, 7 and 10%.

    Args:
        values: (layers,), in order of depth, not all equal.
    """
    found, alike = _along_depth(values[None])
    least_alike, ends = _wandering(len(values))
    rho = np.interp(alike[0], least_alike, _RHOS)
    end = float(np.interp(rho, _RHOS, ends))
    return float(found[0]), (-end, end)


_RHOS = np.linspace(0, 0.95, 20)


@cache
def _wandering(layers: int) -> tuple[Array, Array]:
    """Simulate AR(1) noise for each rho. Return the 10th percentile of its correlation of neighbours, and the 95th
    percentile of the magnitude of its correlation with depth, (rhos,) each.
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
    """Return the rank correlation of each series (series, layers) with depth, and the correlation of neighbours in its
    detrended ranks, zero if a straight line explains them fully; (series,) each.
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
    """Return the share of the variance left by ``given`` that group means explain, (...); zero where none is left.

    If ``given`` is only a constant, it is eta squared.

    Args:
        values: (..., units).
        groups: label of each unit, (units,).
        given: features to regress out of both first, (units, features), including a constant.
    """
    labels = (groups[:, None] == np.unique(groups)).astype(np.float64)
    before = np.square(_rest(values, given)).sum(axis=-1)
    after = np.square(_rest(values, np.hstack([given, labels]))).sum(axis=-1)
    some = before > _NOTHING * np.square(values).sum(axis=-1)
    share = np.where(some, 1 - after / np.where(some, before, 1.0), 0.0)
    rounded: Array = share.round(12)  # equal shares compare equal, and labels that add nothing give zero
    return rounded


def permuted_groups(values: Array, groups: NDArray[np.int64], given: Array, draws: int = DRAWS, seed: int = 0) -> Array:
    """Draw ``between_groups`` of values (units,) under meaningless labels, (draws,).

    The residuals after ``given`` are shuffled (Freedman and Lane).
    """
    rest = np.tile(_rest(values, given), (draws, 1))
    return between_groups(np.random.default_rng(seed).permuted(rest, axis=1), groups, given)


def _rest(values: Array, features: Array) -> Array:
    """Return the residuals of values (..., units) after projection on features (units, features)."""
    basis, sizes, _ = np.linalg.svd(features, full_matrices=False)
    basis = basis[:, sizes > 1e-10 * sizes[0]]
    rest: Array = values - (values @ basis) @ basis.T
    return rest
