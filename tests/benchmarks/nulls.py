"""How often each null of an analysis is rejected where it is true: over 12 and 30 units, for units ever more alike.

Beside them, in brackets, what the same test would do that takes layers or blocks for independent.

python -m tests.benchmarks.nulls
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata

from analysis.questions.cross import Likeness, compare
from analysis.questions.levels import ranked_alike
from analysis.questions.moments import chances_of
from analysis.questions.pca import Components, align, chance_ratios
from analysis.resampling import (
    between_groups,
    depth_correlation,
    holm,
    mean,
    null_range,
    p_of_zero,
    p_value,
    permuted_groups,
)
from search_spaces.sites import MODULES, Site
from tests.benchmarks.table import print_table
from trainables.statistics import Array

_DRAWS = 500
_UNITS = (12, 30)
_RHOS = (0.0, 0.5, 0.8)
_BLOCKS = 3  # of a document
_WIDTH, _COMPONENTS = 64, 10

Simulation = Callable[[int, float, np.random.Generator], bool]
"""Units, how alike they are, and draws; whether the null is rejected."""


def wandering(n: int, rho: float, rng: np.random.Generator, width: int = 1) -> Array:
    """AR(1) noise along n layers, (n, width)."""
    found = rng.normal(size=(n, width))
    found[0] /= np.sqrt(1 - rho**2)
    for layer in range(1, n):
        found[layer] += rho * found[layer - 1]
    return found


def _blocks(n: int, rho: float, rng: np.random.Generator) -> Array:
    """Blocks of n documents, (blocks,), alike by rho within each."""
    shared = np.repeat(rng.normal(size=n), _BLOCKS)
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=n * _BLOCKS)


def interval_by_document(n: int, rho: float, rng: np.random.Generator) -> bool:
    """An interval of a mean, and zero outside of it."""
    return p_of_zero(mean(_blocks(n, rho, rng), np.repeat(np.arange(n), _BLOCKS)), n) < 0.05


def interval_by_block(n: int, rho: float, rng: np.random.Generator) -> bool:
    """The same with blocks for independent ones."""
    return p_of_zero(mean(_blocks(n, rho, rng)), n * _BLOCKS) < 0.05


def any_site(n: int, rho: float, rng: np.random.Generator) -> bool:
    """A find among n sites that wander along the layers, over eight documents."""
    effects = wandering(n, rho, rng, 8)
    return min(holm([p_of_zero(mean(site), 8) for site in effects])) < 0.05


def trend(n: int, rho: float, rng: np.random.Generator) -> bool:
    """A trend with depth."""
    found, (low, high) = depth_correlation(wandering(n, rho, rng)[:, 0])
    return not low <= found <= high


def trend_shuffled(n: int, rho: float, rng: np.random.Generator) -> bool:
    """The same with shuffled depth for its null."""
    ranks, depth = rankdata(wandering(n, rho, rng)[:, 0]), np.arange(n) - (n - 1) / 2
    drawn = np.abs(rng.permuted(np.tile(ranks, (200, 1)), axis=1) @ depth)
    return bool(abs(ranks @ depth) > np.quantile(drawn, 0.95))


def _biases(n: int, rho: float, rng: np.random.Generator) -> dict[Site, torch.Tensor]:
    found = torch.from_numpy(wandering(n, rho, rng, _WIDTH))
    return {Site(layer, "down_proj"): found[layer] for layer in range(n)}


def _likeness(n: int, rho: float, rng: np.random.Generator) -> Likeness:
    return compare(_biases(n, rho, rng), _biases(n, rho, rng))


def two_trials(n: int, rho: float, rng: np.random.Generator) -> bool:
    """Two trainings that are more alike in the same layer than across layers."""
    return _likeness(n, rho, rng).p < 0.025


def two_trials_shuffled(n: int, rho: float, rng: np.random.Generator) -> bool:
    """The same with shuffled layers for its null."""
    one, other = (np.stack(list(_biases(n, rho, rng).values())) for _ in range(2))
    cosines = one @ other.T / np.outer(*(np.linalg.norm(vectors, axis=1) for vectors in (one, other)))
    drawn = [cosines[np.arange(n), rng.permutation(n)].mean() for _ in range(200)]
    return bool(np.trace(cosines) / n > np.quantile(drawn, 0.975))


_SHARED = Components(torch.eye(_WIDTH, dtype=torch.float64)[:, :_COMPONENTS], np.ones(_COMPONENTS))


def span(n: int, rho: float, rng: np.random.Generator) -> bool:
    """A share inside the span of components that all layers have in common."""
    biases = list(_biases(n, rho, rng).values())
    pairs = [(bias, _SHARED) for bias in biases]
    low, high = null_range(chance_ratios(pairs, 500, seed=int(rng.integers(2**31))))
    return not low <= _share(biases) <= high


def span_apart(n: int, rho: float, rng: np.random.Generator) -> bool:
    """The same with each layer's random vector drawn by itself."""
    alone = rng.beta(_COMPONENTS / 2, (_WIDTH - _COMPONENTS) / 2, size=(1000, n)) * _WIDTH / _COMPONENTS
    low, high = null_range(alone.mean(axis=1))
    return not low <= _share(list(_biases(n, rho, rng).values())) <= high


def _share(biases: Sequence[torch.Tensor]) -> float:
    return float(np.mean([align(bias, _SHARED).square().sum() for bias in biases])) * _WIDTH / _COMPONENTS


def tails(n: int, rho: float, rng: np.random.Generator) -> bool:
    """A bias with heavier tails among n Gaussian ones."""
    biases = wandering(n, rho, rng, 9 * _WIDTH)
    return min(holm([chances_of(torch.from_numpy(bias)).heavier for bias in biases])) < 0.025


def categories(n: int, rho: float, rng: np.random.Generator) -> bool:
    """Categories of n prompts that differ by more than their lengths, which rho of the figure follows."""
    groups = np.arange(n) % 3
    length = rng.normal(size=n) + groups
    values = np.sqrt(1 - rho**2) * rng.normal(size=n) + rho * length
    given = np.column_stack([np.ones(n), length])
    drawn = permuted_groups(values, groups, given, 199, seed=int(rng.integers(2**31)))
    return p_value(float(between_groups(values, groups, given)), drawn) <= 0.05


def _of_modules(n: int, rho: float, rng: np.random.Generator) -> dict[Site, float]:
    """A figure of the sites of seven modules, each with a scale of its own, that wanders along the layers."""
    scales = 3 * rng.normal(size=len(MODULES))
    figures = [scale + wandering(n, rho, rng)[:, 0] for scale in scales]
    return {
        Site(layer, module): float(of[layer]) for module, of in zip(MODULES, figures, strict=True) for layer in range(n)
    }


def gains(n: int, rho: float, rng: np.random.Generator) -> bool:
    """Gains that follow costs within a module."""
    value, (low, high) = ranked_alike(_of_modules(n, rho, rng), _of_modules(n, rho, rng)) or (0.0, (0.0, 0.0))
    return not low <= value <= high


def gains_shuffled(n: int, rho: float, rng: np.random.Generator) -> bool:
    """The same with shuffled sites for its null."""
    one, other = (rankdata(list(_of_modules(n, rho, rng).values())) for _ in range(2))
    drawn = [np.corrcoef(one, rng.permutation(other))[0, 1] for _ in range(200)]
    low, high = null_range(np.array(drawn))
    return not low <= np.corrcoef(one, other)[0, 1] <= high


NULLS: dict[str, tuple[float, Simulation, Simulation | None]] = {
    "interval over documents": (0.05, interval_by_document, interval_by_block),
    "any of n sites (Holm)": (0.05, any_site, None),
    "norms: a trend with depth": (0.05, trend, trend_shuffled),
    "cross: two trials alike by layer": (0.025, two_trials, two_trials_shuffled),
    "pca: share in the span": (0.05, span, span_apart),
    "moments: any heavier tails (Holm)": (0.025, tails, None),
    "categories, length taken out": (0.05, categories, None),
    "levels: gains follow costs": (0.05, gains, gains_shuffled),
}


def main() -> None:
    """Simulate and print."""
    rows = []
    for name, (nominal, *ways) in NULLS.items():
        cells = []
        for n in _UNITS:
            for rho in _RHOS:
                rates = [_rate(way, n, rho) for way in ways if way is not None]
                cells.append(f"{rates[0]:.1%}" + "".join(f" ({rate:.0%})" for rate in rates[1:]))
        rows.append((name, f"{nominal:.1%}", *cells))
    head = ["null", "nominal", *(f"n={n}, rho={rho:.1f}" for n in _UNITS for rho in _RHOS)]
    print_table(f"Wrong rejections in {_DRAWS} draws (in brackets: units taken for independent)", head, rows)


def _rate(way: Simulation, n: int, rho: float) -> float:
    rng = np.random.default_rng(0)
    return sum(way(n, rho, rng) for _ in range(_DRAWS)) / _DRAWS


if __name__ == "__main__":
    main()
