"""From curves to levels: the sparsity of each site that minimises the total cost at a mean level."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import SponError

Array = NDArray[np.float64]
_STEP = 0.005
"""Spacing of the levels that a site can get, before they are mixed to meet the mean exactly."""
_HALVINGS = 60


def cheapest_levels(
    cost: Array, at: Sequence[float], shares: Array, sparsity: float, bounds: tuple[float, float]
) -> Array:
    """The levels that minimise the sum of the curves at a mean level, weighted by the weights of the sites.

    At a given price of sparsity, each site takes the level that minimises its cost less the price of its sparsity. The
    price is found by bisection. The two solutions on either side of the mean are then mixed to meet it exactly.

    Args:
        cost: (sites, points) curves in nats. A curve counts as flat where it falls.
        at: levels of the points, ascending from 0.
        shares: (sites,) of all planned weights. They sum to 1.
        sparsity: target mean level.
        bounds: lowest and highest level of a site.

    Returns:
        (sites,) levels within the bounds. Their mean is ``sparsity`` within 1e-9.

    Raises:
        SponError: if no levels within the bounds have that mean.
    """
    low, high = bounds
    if not low <= sparsity <= high:
        raise SponError(f"levels in {low:g}..{high:g} cannot have the mean {sparsity:g} (at plan.bounds)")
    levels = np.append(np.arange(low, high - 1e-9, _STEP), high)
    fine = np.stack([np.interp(levels, at, curve) for curve in _rising(cost)])

    def picked(log_price: float) -> Array:
        price = np.exp(log_price) * shares[:, None] * levels
        found: Array = levels[np.argmin(fine - price, axis=1)]
        return found

    below, above = np.full(len(cost), low), np.full(len(cost), high)
    least, most = -60.0, 60.0  # of the logarithm of the price
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        found = picked(middle)
        if shares @ found > sparsity:
            above, most = found, middle
        else:
            below, least = found, middle
    lowest, highest = shares @ below, shares @ above
    mix = (sparsity - lowest) / (highest - lowest) if highest > lowest else 0.0
    mixed: Array = below + mix * (above - below)
    return mixed


def predicted_kl(cost: Array, at: Sequence[float], levels: Array) -> float:
    """The predicted KL of a plan in nats per position: the sum of the curves at its levels, (sites,)."""
    each = (np.interp(level, at, curve) for curve, level in zip(_rising(cost), levels, strict=True))
    return float(sum(each))


def _rising(cost: Array) -> Array:
    """The running maximum of each curve, (sites, points), which never falls."""
    rising: Array = np.maximum.accumulate(cost, axis=1)
    return rising
