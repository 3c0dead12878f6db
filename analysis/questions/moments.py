"""What do the entries of a bias look like?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from analysis.biases import BiasStatistics, describe_biases
from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import DRAWS, chance_count, p_value
from analysis.subject import Subject
from trainables.statistics import TAIL, Array, Interval

NAME = "moments"
_CHUNK = 250  # vectors at a time: those of a wide site are large


@dataclass(frozen=True)
class Spread:
    """Sampling intervals of the moments, from a bootstrap over entries.

    They say how much a figure hangs on single entries. Whether a bias is Gaussian they do not say: that of the kurtosis
    misses a true zero too often, and ``Chances`` compares with the kurtosis of Gaussian vectors instead.
    """

    mean: Interval
    sd: Interval
    excess_kurtosis: Interval
    positive_fraction: Interval


def spread_of(bias: Tensor, resamples: int = DRAWS, seed: int = 0) -> Spread:
    """Intervals of one bias's moments.

    Args:
        bias: (width,).
        resamples: bootstrap draws of entries.
        seed: of the draws.
    """
    x = bias.double()
    generator = torch.Generator().manual_seed(seed)
    parts = [_moments(x[None])]
    for start in range(0, resamples, _CHUNK):
        size = (min(_CHUNK, resamples - start), len(x))
        parts.append(_moments(x[torch.randint(len(x), size, generator=generator)]))
    return Spread(*(_interval(moment) for moment in torch.cat(parts, dim=1)))


def _moments(vectors: Tensor) -> Tensor:
    """Mean, sd, excess kurtosis and positive fraction of vectors (n, width), (4, n)."""
    mean = vectors.mean(dim=1)
    centred = vectors - mean[:, None]
    variance = centred.square().mean(dim=1)
    kurtosis = centred.square().square().mean(dim=1) / variance.square() - 3
    return torch.stack([mean, variance.sqrt(), kurtosis, (vectors > 0).double().mean(dim=1)])


def _interval(values: Tensor) -> Interval:
    low, high = np.quantile(values[1:].numpy(), (TAIL, 1 - TAIL))
    return Interval(float(values[0]), float(low), float(high))


@dataclass(frozen=True)
class Chances:
    """Chances of a Gaussian vector around zero to look as extreme as a bias.

    Attributes:
        heavier, lighter: to have a kurtosis at least as high, and as low.
        sign: to have at least so many more entries of one sign than of the other.
    """

    heavier: float
    lighter: float
    sign: float


def chances_of(bias: Tensor) -> Chances:
    """Chances of one bias (width,): of its kurtosis by Gaussian vectors of its width, of its signs by the binomial."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # a second to import

    kurtosis, drawn = float(_moments(bias.double()[None])[2]), gaussian_kurtosis(len(bias))
    signs = int((bias != 0).sum())
    sign = float(binomtest(int((bias > 0).sum()), signs).pvalue) if signs else 1.0
    return Chances(p_value(kurtosis, drawn), p_value(-kurtosis, -drawn), sign)


@cache
def gaussian_kurtosis(width: int, draws: int = DRAWS, seed: int = 0) -> Array:
    """Excess kurtosis of Gaussian vectors of a width, which their mean and size do not change, (draws,)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [min(_CHUNK, draws - start) for start in range(0, draws, _CHUNK)]
    parts = [_moments(torch.randn(n, width, dtype=torch.float64, generator=generator))[2] for n in sizes]
    kurtosis: Array = torch.cat(parts).numpy()
    return kurtosis


def find(subject: Subject) -> Finding:
    """Ask it of every bias."""
    described = describe_biases(subject.biases)
    vectors = [subject.biases[statistics.site] for statistics in described]
    chances = [chances_of(vector) for vector in vectors]
    effects = _effects(chances)
    return Finding(
        analysis=NAME,
        title="Bias statistics",
        question="Are the entries of a bias Gaussian, symmetric, or led by a few?",
        null="Entries drawn from a Gaussian around zero, by itself for each bias: the kurtosis of such vectors of the "
        "same width, and half of the entries positive. Intervals of single biases are bootstraps over entries.",
        effects=effects,
        verdict=_verdict(effects, len(chances)),
        rows=tuple(
            _row(statistics, spread_of(vector), chance)
            for statistics, vector, chance in zip(described, vectors, chances, strict=True)
        ),
    )


def _effects(chances: Sequence[Chances]) -> tuple[Effect, ...]:
    n = len(chances)
    counted = (
        ("heavier tails than a Gaussian", [c.heavier for c in chances], TAIL),
        ("lighter tails", [c.lighter for c in chances], TAIL),
        ("more entries of one sign", [c.sign for c in chances], 2 * TAIL),
    )
    return tuple(
        Effect(
            label=f"biases with {what}, of {n}",
            value=sum(p < level for p in ps),
            null=chance_count(n, level),
            unit="sites",
        )
        for what, ps, level in counted
    )


def _row(statistics: BiasStatistics, spread: Spread, chances: Chances) -> Row:
    row: Row = {"site": str(statistics.site), "norm": statistics.norm, "max_abs": statistics.max_abs}
    for name in ("mean", "sd", "excess_kurtosis", "positive_fraction"):
        row |= cells(name, getattr(spread, name))
    return row | {"p_heavier": chances.heavier, "p_lighter": chances.lighter, "p_sign": chances.sign}


def _verdict(effects: tuple[Effect, ...], n: int) -> str:
    said = ("have heavier tails than a Gaussian", "have lighter tails", "have more entries of one sign")
    words = [
        f"{effect.value:.0f} of {n} {what}, above chance level"
        for effect, what in zip(effects, said, strict=True)
        if effect.null is not None and effect.value > effect.null[1]
    ]
    return "; ".join(words) or "tails and signs like those of Gaussian entries"
