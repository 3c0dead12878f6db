"""What do the entries of a bias look like?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.biases import BiasStatistics, describe_biases
from analysis.finding import Effect, Finding, Row
from analysis.resampling import RESAMPLES, chance_count
from analysis.subject import Subject
from trainables.statistics import TAIL, Interval

NAME = "moments"


@dataclass(frozen=True)
class Spread:
    """Sampling intervals of the moments, from a bootstrap over entries."""

    mean: Interval
    sd: Interval
    excess_kurtosis: Interval
    positive_fraction: Interval


def spread_of(bias: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Spread:
    """Intervals of one bias's moments.

    Args:
        bias: (width,).
        resamples: bootstrap draws of entries.
        seed: of the draws.
    """
    x = bias.double()
    draws = torch.randint(len(x), (resamples, len(x)), generator=torch.Generator().manual_seed(seed))
    drawn = torch.cat([x[None], x[draws]])
    centred = drawn - drawn.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1)
    moments = {
        "mean": drawn.mean(dim=1),
        "sd": variance.sqrt(),
        "excess_kurtosis": centred.pow(4).mean(dim=1) / variance.square() - 3,
        "positive_fraction": (drawn > 0).double().mean(dim=1),
    }
    return Spread(**{name: _interval(values) for name, values in moments.items()})


def _interval(values: Tensor) -> Interval:
    low, high = np.quantile(values[1:].numpy(), (TAIL, 1 - TAIL))
    return Interval(float(values[0]), float(low), float(high))


def find(subject: Subject) -> Finding:
    """Ask it of every bias."""
    described = describe_biases(subject.biases)
    spreads = [spread_of(subject.biases[statistics.site]) for statistics in described]
    n = len(spreads)
    heavy = sum(spread.excess_kurtosis.low > 0 for spread in spreads)
    light = sum(spread.excess_kurtosis.high < 0 for spread in spreads)
    lopsided = sum(not s.positive_fraction.low <= 0.5 <= s.positive_fraction.high for s in spreads)
    null = chance_count(n, TAIL)
    effects = (
        Effect(label=f"biases with heavier tails than a Gaussian, of {n}", value=heavy, null=null, unit="sites"),
        Effect(label=f"biases with lighter tails, of {n}", value=light, null=null, unit="sites"),
        Effect(
            label=f"biases with more entries of one sign, of {n}",
            value=lopsided,
            null=chance_count(n, 2 * TAIL),
            unit="sites",
        ),
    )
    return Finding(
        analysis=NAME,
        title="Bias statistics",
        question="Are the entries of a bias Gaussian, symmetric, or led by a few?",
        null="Entries drawn from a Gaussian around zero: excess kurtosis 0, half of them positive. Intervals are "
        "bootstraps over entries; those of single biases are not corrected for their number, the counts are.",
        effects=effects,
        verdict=_verdict(heavy, light, lopsided, n, null),
        rows=tuple(_row(statistics, spread) for statistics, spread in zip(described, spreads, strict=True)),
    )


def _row(statistics: BiasStatistics, spread: Spread) -> Row:
    row: Row = {
        "site": str(statistics.site),
        "norm": statistics.norm,
        "max_abs": statistics.max_abs,
    }
    for name in ("mean", "sd", "excess_kurtosis", "positive_fraction"):
        interval: Interval = getattr(spread, name)
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _verdict(heavy: int, light: int, lopsided: int, n: int, null: tuple[float, float]) -> str:
    tails = []
    if heavy > null[1]:
        tails.append(f"{heavy} of {n} have heavier tails than a Gaussian")
    if light > null[1]:
        tails.append(f"{light} of {n} have lighter ones")
    signs = f"{lopsided} of {n} have more entries of one sign"
    return "; ".join([*(tails or ["tails as those of a Gaussian"]), signs])
