"""Paired bootstrap intervals over documents (or blocks) for any figure computed from NLL and KL means.

Each resample draws documents with replacement and gives the same draw to every model, so that differences between
models are paired. The unit is documents, not tokens, because tokens of one article are far from independent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.scores import Scores

Array = NDArray[np.float64]
TAIL = 0.025
"""Share of the resamples beyond either end of an interval."""
_RESAMPLES = 2000
_SPLITS = 100
"""Number of random splits into halves that a reliability is averaged over."""
MIN_DOCUMENTS = 10
"""Below this a bootstrap over documents means little; blocks are the unit then, and tables say so."""


class Interval(NamedTuple):
    """A figure on all the data and its percentile bootstrap interval, 95% unless stated otherwise."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Format all three numbers, such as ``-0.0386 [-0.0415, -0.0353]``."""
        value, low, high = (format(number, spec) for number in self)
        return f"{value} [{low}, {high}]"


class Means(NamedTuple):
    """One model under every resample, the data itself first: (1 + resamples,) each."""

    nll: Array
    kl: Array

    @property
    def ppl(self) -> Array:
        """Perplexity under every resample."""
        return np.exp(self.nll)


Statistic = Callable[[Mapping[str, Means]], Array]


def recovered(dense: Array, teal: Array, spon: Array) -> Array:
    """Share of TEAL's damage that SPON repairs, (1 + resamples,); nan unless that damage is certain.

    It is certain if its interval is above zero. Arguments are one figure of each model, such as its KL, under every
    resample, the data itself first.
    """
    damage = teal - dense
    if np.quantile(damage[1:], TAIL) <= 0:
        return np.full_like(damage, np.nan)
    return (teal - spon) / damage


def seed_margin(figures: Array, tail: float = TAIL) -> float:
    """How far the seeds alone may shift the difference of two models' means over seeds.

    The variance between seeds is pooled over all models, without the effect of a seed on all of them: it is the
    residual of a two-way table.

    Args:
        figures: (models, seeds), of models that were trained with the same seeds.
        tail: share beyond either end of an interval.

    Returns:
        Half the width of an interval of a difference; 0 for one seed or one model, which tell nothing.
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # here, because it takes a second to import

    models, seeds = figures.shape
    freedom = (models - 1) * (seeds - 1)
    if not freedom:
        return 0.0
    rest = figures - figures.mean(axis=1, keepdims=True) - figures.mean(axis=0) + figures.mean()
    variance = float((rest**2).sum()) / freedom
    return float(t.ppf(1 - tail, freedom)) * float(np.sqrt(2 * variance / seeds))


def widened(interval: Interval, margin: float) -> Interval:
    """Widen an interval by an independent source of error, whose own interval has the half-width ``margin``."""
    value, low, high = interval
    return Interval(value, value - float(np.hypot(value - low, margin)), value + float(np.hypot(high - value, margin)))


def bootstrap_unit(scores: Scores) -> Literal["documents", "blocks"]:
    """What to resample: documents if the split touches enough of them, else blocks."""
    return "documents" if int((scores.document_positions > 0).sum()) >= MIN_DOCUMENTS else "blocks"


def paired_bootstrap(
    models: Mapping[str, Scores],
    statistics: Mapping[str, Statistic],
    resamples: int = _RESAMPLES,
    tail: float = TAIL,
) -> dict[str, Interval]:
    """Intervals of several statistics of models' scores on one split, from one set of resamples.

    Each statistic gives one figure per resample; a share ``tail`` of them lies beyond either end of its interval.
    """
    unit = bootstrap_unit(next(iter(models.values())))
    means = _resampled_means(models, unit, resamples)
    intervals = {}
    for name, statistic in statistics.items():
        values = statistic(means)
        low, high = np.quantile(values[1:], (tail, 1 - tail))
        intervals[name] = Interval(float(values[0]), float(low), float(high))
    return intervals


def _resampled_means(
    models: Mapping[str, Scores], unit: Literal["documents", "blocks"], resamples: int
) -> dict[str, Means]:
    prefix = unit.removesuffix("s")
    sums = {
        name: {key: getattr(scores, f"{prefix}_{key}").numpy() for key in ("nll", "kl", "predictions", "positions")}
        for name, scores in models.items()
    }
    n = len(next(iter(sums.values()))["nll"])
    used = next(iter(sums.values()))["positions"] > 0
    draws = np.random.default_rng(0).multinomial(int(used.sum()), np.full(used.sum(), 1 / used.sum()), resamples)
    counts = np.zeros((1 + resamples, n))
    counts[0] = 1
    counts[1:, used] = draws
    return {
        name: Means(counts @ s["nll"] / (counts @ s["predictions"]), counts @ s["kl"] / (counts @ s["positions"]))
        for name, s in sums.items()
    }


def reliability(figures: Array) -> float | None:
    """Reliability of candidates' order by mean: rank correlation between halves, stepped up to the whole.

    Averaged over random halves of the columns (Spearman 1910, Brown 1910).

    Args:
        figures: (candidates, columns), at least two columns.

    Returns:
        One is perfect, zero is chance; None with fewer than three different means.
    """
    if len(set(figures.mean(axis=1))) < 3:
        return None
    rng, halves, half = np.random.default_rng(0), [], figures.shape[1] // 2
    for _ in range(_SPLITS):
        order = rng.permutation(figures.shape[1])
        halves.append((figures[:, order[:half]].mean(axis=1), figures[:, order[half : 2 * half]].mean(axis=1)))
    between = float(np.nanmean(rank_correlation(*map(np.array, zip(*halves, strict=True)))))
    return 2 * between / (1 + between) if between > 0 else between


def spearman(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Spearman's rank correlation, ties at their mean rank, with a bootstrap interval over pairs.

    Resamples in which one side is constant have no correlation and are left out.

    Raises:
        ValueError: if the lengths differ, there are fewer than three pairs, or one side is constant.
    """
    n = len(x)
    if n < 3 or len(y) != n or len(set(x)) == 1 or len(set(y)) == 1:
        raise ValueError(f"a rank correlation needs three pairs and two sides that vary, but got x={x}, y={y}")
    draws = np.random.default_rng(0).integers(n, size=(1 + _RESAMPLES, n))
    draws[0] = np.arange(n)
    rho = rank_correlation(np.array(x, dtype=np.float64)[draws], np.array(y, dtype=np.float64)[draws])
    low, high = np.nanquantile(rho[1:], (TAIL, 1 - TAIL))
    return Interval(float(rho[0]), float(low), float(high))


def rank_correlation(x: Array, y: Array) -> Array:
    """Spearman's rho of each row of (rows, pairs); NaN where one side is constant."""
    from scipy.stats import rankdata  # here, because it takes a second to import

    ranks: Array = np.stack([rankdata(side, axis=1) for side in (x, y)])
    ranks -= ranks.mean(axis=2, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=2))
    with np.errstate(invalid="ignore"):
        rho: Array = (ranks[0] * ranks[1]).sum(axis=1) / (norms[0] * norms[1])
    return rho
