"""Statistics of bias vectors, and sites ranked by norm."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from search_spaces.sites import Site


@dataclass(frozen=True)
class BiasStatistics:
    """Moments of one bias vector.

    Attributes:
        rank: of the site by norm, 1 the largest.
        norm: Euclidean.
        sd: population standard deviation.
        excess_kurtosis: fourth central moment over sd^4, minus 3; 0 for a Gaussian, nan for a constant vector.
        positive_fraction: share of entries above zero.
    """

    site: Site
    rank: int
    norm: float
    mean: float
    sd: float
    max_abs: float
    excess_kurtosis: float
    positive_fraction: float


def describe_biases(biases: Mapping[Site, Tensor]) -> list[BiasStatistics]:
    """Statistics of every bias, in site order.

    Args:
        biases: vector of each site.
    """
    by_norm = sorted(biases, key=lambda site: -biases[site].norm().item())
    return [_describe(site, by_norm.index(site) + 1, vector.double()) for site, vector in biases.items()]


def _describe(site: Site, rank: int, vector: Tensor) -> BiasStatistics:
    centred = vector - vector.mean()
    variance = centred.square().mean()
    return BiasStatistics(
        site=site,
        rank=rank,
        norm=vector.norm().item(),
        mean=vector.mean().item(),
        sd=variance.sqrt().item(),
        max_abs=vector.abs().max().item(),
        excess_kurtosis=(centred.pow(4).mean() / variance.square() - 3).item(),
        positive_fraction=(vector > 0).double().mean().item(),
    )
