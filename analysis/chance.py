"""Chance level of the alignment with a few directions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from search_spaces.errors import SponError
from trainables.statistics import Array


@dataclass(frozen=True, eq=False)
class ChanceAlignment:
    """Largest absolute cosine of a random direction with several orthonormal ones.

    Attributes:
        samples: array of shape (draws,), ascending.
    """

    mean: float
    percentile95: float
    samples: Array

    def p_value(self, observed: float) -> float:
        """Chance to align at least as well as observed; never zero, because the observed value counts as a draw."""
        above = len(self.samples) - int(np.searchsorted(self.samples, observed, side="left"))
        return (1 + above) / (1 + len(self.samples))


def chance_alignment(width: int, components: int, draws: int = 100_000, seed: int = 0) -> ChanceAlignment:
    """Draw the largest |cosine| of a uniformly random direction with the first principal components.

    The draw is exact. A random direction is a normal vector over its length, and any orthonormal components can serve
    as the first axes. The squares of the other entries add up to one chi-square variable, which is drawn instead.

    Args:
        width: entries of the vector.
        components: number of orthonormal directions to compare with.
        draws: number of random directions.
        seed: of the draws.

    Raises:
        SponError: unless 1 <= components <= width and draws >= 1.
    """
    if not 1 <= components <= width:
        raise SponError(f"components must be in 1..{width}, the width of the vector, but got {components}")
    if draws < 1:
        raise SponError(f"there must be at least one random draw, but got {draws}")
    generator = np.random.default_rng(seed)
    along = np.square(generator.standard_normal((draws, components)))
    rest = 2 * generator.standard_gamma((width - components) / 2, draws)  # chi-square, also with 0 degrees of freedom
    samples = np.sort(np.sqrt(along.max(axis=1) / (along.sum(axis=1) + rest)))
    return ChanceAlignment(float(samples.mean()), float(np.quantile(samples, 0.95)), samples)


def turned(vectors: Array, draws: int, seed: int = 0) -> Iterator[Array]:
    """Turn all vectors by the same random rotation, which keeps the angles between them.

    Args:
        vectors: (vectors, width).
        draws: rotations.
        seed: of the draws.

    Yields:
        (vectors, width).
    """
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        axes = np.linalg.qr(rng.standard_normal((vectors.shape[1], len(sizes))))[0]
        signs = rng.choice((-1.0, 1.0), len(sizes))  # the signs of a QR decomposition are not random
        yield (left * sizes * signs) @ axes.T
