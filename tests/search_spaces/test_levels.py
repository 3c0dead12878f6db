"""Levels from curves: the mean that was asked for, within bounds, at the least sum of what they cost."""

from itertools import product

import numpy as np
import pytest

from search_spaces.errors import SponError
from search_spaces.levels import cheapest_levels, predicted_kl

AT = tuple(k / 20 for k in range(20))
WHOLE = (0.0, 0.95)


def curves(*weights: float) -> np.ndarray:
    """Convex curves, weight x level^2."""
    return np.array(weights)[:, None] * np.array(AT) ** 2


def equal(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


@pytest.mark.parametrize("sparsity", [0.0, 0.013, 0.3, 0.5, 0.777, 0.95])
@pytest.mark.parametrize("bounds", [WHOLE, (0.0, 0.951), (0.0, 0.96)])
def test_the_weighted_mean_is_met_within_the_bounds(sparsity, bounds):
    rng = np.random.default_rng(0)
    cost = rng.random((9, 20)).cumsum(axis=1) ** 2
    shares = rng.dirichlet(np.ones(9))
    levels = cheapest_levels(cost, AT, shares, sparsity, bounds)
    assert shares @ levels == pytest.approx(sparsity, abs=1e-9)
    assert ((levels >= bounds[0]) & (levels <= bounds[1])).all()


def test_levels_go_where_they_cost_least_for_their_weights():
    levels = cheapest_levels(curves(1, 4, 1), AT, np.array([0.25, 0.25, 0.5]), 0.3, WHOLE)
    # At the optimum 2 w s / share is the same for all: s = (0.2, 0.05, 0.4) x price
    expected = np.array([0.25, 0.0625, 0.5]) * 0.3 / 0.328125
    np.testing.assert_allclose(levels, expected, atol=0.025)  # points are .05 apart


def test_no_other_levels_on_a_grid_cost_less():
    rng = np.random.default_rng(1)
    grid = np.arange(0, 20, 2) / 20
    for _ in range(5):
        cost = np.sort(rng.random((3, 20)), axis=1)
        cost = cost.cumsum(axis=1)  # convex
        shares = rng.dirichlet(np.ones(3) * 5)
        mine = predicted_kl(cost, AT, cheapest_levels(cost, AT, shares, 0.5, WHOLE))
        others = [np.array(levels) for levels in product(grid, repeat=3) if shares @ np.array(levels) >= 0.5]
        assert mine <= min(predicted_kl(cost, AT, levels) for levels in others) + 1e-3


def test_a_site_that_costs_nothing_is_raised_first_and_bounds_hold_it():
    levels = cheapest_levels(curves(0, 1), AT, equal(2), 0.3, (0.0, 0.6))
    np.testing.assert_allclose(levels, [0.6, 0.0], atol=1e-6)
    levels = cheapest_levels(curves(0, 1), AT, equal(2), 0.3, (0.1, 0.6))
    np.testing.assert_allclose(levels, [0.5, 0.1], atol=0.006)


def test_a_cliff_is_not_climbed_while_there_is_another_way():
    cliff = np.where(np.array(AT) > 0.42, 50.0, 0.01)
    cliff[0] = 0
    levels = cheapest_levels(np.stack([cliff, curves(1)[0]]), AT, equal(2), 0.5, WHOLE)
    assert levels[0] == pytest.approx(0.4, abs=0.01)


def test_a_curve_that_falls_counts_as_flat():
    falling = np.array([0, 3, 2, 1, *[4] * 16], dtype=float)
    assert predicted_kl(falling[None], AT, np.array([0.15])) == 3


def test_a_prediction_is_the_sum_between_the_points():
    assert predicted_kl(curves(1, 2), AT, np.array([0.0, 0.0])) == 0
    assert predicted_kl(curves(1, 2), AT, np.array([0.5, 0.25])) == pytest.approx(0.25 + 0.125)
    assert predicted_kl(curves(1), AT, np.array([0.525])) == pytest.approx((0.25 + 0.3025) / 2)


@pytest.mark.parametrize(("sparsity", "bounds"), [(0.2, (0.3, 0.9)), (0.95, (0.0, 0.9))])
def test_a_mean_outside_the_bounds_is_refused(sparsity, bounds):
    with pytest.raises(SponError, match=f"cannot have the mean {sparsity:g}"):
        cheapest_levels(curves(1, 1), AT, equal(2), sparsity, bounds)
