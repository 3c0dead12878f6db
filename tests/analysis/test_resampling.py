"""Intervals that hold the truth as often as they say, and nulls that are met as often as they should be."""

import numpy as np
import pytest
import torch
from scipy import stats

from analysis.resampling import (
    between_groups,
    depth_correlation,
    holm,
    mean,
    null_range,
    p_of_zero,
    p_value,
    permuted_groups,
    ratio,
    ratios_apart,
    units_of,
)
from trainables.text.corpus import Blocks

ONES = np.ones((30, 1))
GROUPS = np.repeat(np.arange(3), 10)


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(3, 2, 9)
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert mean(values) == pytest.approx((values.mean(), low, high))


def test_a_ratio_is_sum_over_sum():
    found = ratio(np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 8.0]))
    assert found.value == 9 / 12
    left = np.array([8 / 10, 7 / 10, 3 / 4])
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half))


@pytest.mark.parametrize(
    ("numerators", "denominators", "expected"),
    [
        ([0.0] * 4, [0.0] * 4, (0, 0, 0)),  # a share of nothing
        ([0.5] * 5, [1.0] * 5, (0.5, 0.5, 0.5)),  # equal units leave no doubt
        ([2.0], [1.0], (2, -np.inf, np.inf)),  # one unit could be anything
        ([0.0, 3.0], [0.0, 4.0], (0.75, -np.inf, np.inf)),
    ],
)
def test_a_ratio_of_few_or_equal_units(numerators, denominators, expected):
    assert ratio(np.array(numerators), np.array(denominators)) == expected


def test_two_ratios_apart_keep_units_whole():
    one, other = (np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 4.0])), (np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert ratios_apart(one, one) == (0, 0, 0)
    found = ratios_apart(one, other)
    left = np.array([6 / 7 - 2 / 5, 5 / 6 - 2 / 4, 3 / 5 - 2 / 3])
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    assert found == pytest.approx((7 / 9 - 3 / 6, 7 / 9 - 3 / 6 - half, 7 / 9 - 3 / 6 + half))


def test_intervals_over_eight_units_hold_the_true_ratio_in_95_of_100_cases():
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        tokens = np.exp(rng.normal(0, 0.4, 8))
        found = ratio(tokens * (0.3 + rng.normal(0, 0.2, 8)), tokens)
        held += found.low <= 0.3 <= found.high
    assert 0.92 < held / 1000 < 0.98  # percentiles of a bootstrap: 0.88


def test_the_chance_of_zero_is_that_of_students_test():
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    assert p_of_zero(mean(values), 9) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize(("values", "p"), [([2.0, 2.0], 0.0), ([0.0, 0.0], 1.0), ([2.0], 1.0)])
def test_the_chance_of_zero_without_spread_or_end(values, p):
    assert p_of_zero(mean(np.array(values)), len(values)) == p


def test_a_family_of_tests_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.04]) == [0.04]  # one test by itself can be a find
    assert holm([]) == []


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_of_a_family_of_tests_one_is_found_by_chance_in_five_of_100(rho):
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        values = np.sqrt(rho) * rng.normal(size=8) + np.sqrt(1 - rho) * rng.normal(size=(16, 8))
        wrong += min(holm([p_of_zero(mean(one), 8) for one in values])) < 0.05
    assert 1 <= wrong <= 32  # of 400, 5% are 20; fewer where the tests are alike


def wandering(rho: float, layers: int, draws: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    series = rng.normal(size=(draws, layers))
    series[:, 0] /= np.sqrt(1 - rho**2)
    for layer in range(1, layers):
        series[:, layer] += rho * series[:, layer - 1]
    return series


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("layers", [12, 30])
def test_what_wanders_along_the_layers_is_no_trend(layers, rho):
    beyond = 0
    for series in wandering(rho, layers, 500, seed=1):
        found, (low, high) = depth_correlation(series)
        beyond += not low <= found <= high
    assert beyond <= 40  # of 500; 25 are expected at most. Of shuffled depth 196 to 245 at rho = .8


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_a_trend_beside_what_wanders_is_found(rho):
    series = wandering(rho, 30, 200, seed=2) + 2 / np.sqrt(1 - rho**2) * stats.zscore(np.arange(30.0))
    found = [depth_correlation(values) for values in series]
    assert sum(correlation > null[1] for correlation, null in found) > 120


def test_the_correlation_with_depth_by_hand():
    assert depth_correlation(np.array([2.0, 1.0, 4.0, 3.0]))[0] == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert depth_correlation(np.array([1.0, 1.0, 2.0, 2.0]))[0] == pytest.approx(0.8944, abs=1e-4)  # ties
    found, (low, high) = depth_correlation(np.exp(np.arange(8.0)))
    assert found == pytest.approx(1)
    assert -1 < low < high < 1


def test_the_observed_figure_counts_as_a_draw_and_one_that_does_not_exist_is_no_find():
    draws = np.array([1.0, 2.0, 3.0, 4.0])
    assert [p_value(observed, draws) for observed in (3.0, 9.0, float("nan"))] == [3 / 5, 1 / 5, 1]
    assert null_range(np.arange(1001.0)) == (25, 975)


def test_the_share_between_groups_by_hand():
    values = np.array([1.0, 3.0, 5.0, 7.0])  # group means 2 and 6: 16 of a total of 20 between them
    assert between_groups(values, np.array([0, 0, 1, 1]), np.ones((4, 1))) == pytest.approx(0.8)


def test_the_share_beyond_a_covariate_is_the_partial_one():
    rng = np.random.default_rng(0)
    values, covariate = rng.normal(size=30), rng.normal(size=30)
    given = beside(covariate)
    full = np.column_stack([given, GROUPS == 1, GROUPS == 2])
    before, after = (np.linalg.lstsq(x, values, rcond=None)[1].item() for x in (given, full))
    assert between_groups(values, GROUPS, given) == pytest.approx(1 - after / before)


@pytest.mark.parametrize("values", [np.full(30, 0.1), np.zeros(30)])
def test_values_that_do_not_vary_have_no_share_and_no_find(values):
    observed, drawn = between_groups(values, GROUPS, ONES), permuted_groups(values, GROUPS, ONES, 99)
    assert observed == 0
    assert p_value(float(observed), drawn) == 1


def chance_to_find(values_of, given_of) -> float:
    """How often a permutation test at 10% finds categories in 300 data sets."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):
        covariate = rng.normal(size=30) + GROUPS  # categories differ in it
        values, given = values_of(rng, covariate), given_of(covariate)
        drawn = permuted_groups(values, GROUPS, given, 99)
        found += p_value(float(between_groups(values, GROUPS, given)), drawn) <= 0.1
    return found / 300


def beside(covariate: np.ndarray) -> np.ndarray:
    return np.column_stack([ONES, covariate])


def test_labels_that_mean_nothing_are_found_at_the_nominal_rate_also_where_a_covariate_explains_it_all():
    def values(rng, covariate):
        return 3 * covariate + rng.normal(size=30)

    assert 0.06 < chance_to_find(lambda rng, _: rng.normal(size=30), lambda _: ONES) < 0.14
    assert chance_to_find(values, lambda _: ONES) > 0.9
    assert 0.06 < chance_to_find(values, beside) < 0.14


def test_the_null_does_not_hang_on_what_is_given():
    rng = np.random.default_rng(0)
    values, covariate = rng.normal(size=30), rng.normal(size=30)
    given = beside(covariate)
    drawn = permuted_groups(values, GROUPS, given, 99)
    assert permuted_groups(values + 50 * covariate, GROUPS, given, 99) == pytest.approx(drawn)


def test_an_effect_beside_a_covariate_is_found():
    def values(rng, covariate):
        return covariate + 2.5 * (GROUPS == 1) + rng.normal(size=30)

    assert chance_to_find(values, beside) > 0.9


def test_blocks_that_share_a_document_are_one_unit():
    documents = torch.tensor([[0, 0, 0], [0, 1, 1], [2, 2, 2], [3, 3, 4], [4, 4, 4], [1, 5, 5]])
    units = units_of(Blocks(torch.zeros_like(documents), documents))
    assert units[0] == units[1] == units[5]  # by way of document 1
    assert units[3] == units[4]
    assert len(set(units.tolist())) == 3


def test_an_interval_over_units_is_that_over_their_sums():
    rng, units = np.random.default_rng(0), np.array([0, 0, 1, 2, 2, 2, 3, 4])
    above, below = rng.exponential(1.0, 8), rng.exponential(1.0, 8)
    sums = [np.bincount(units, weights=column) for column in (above, below)]
    assert ratio(above, below, units=units) == pytest.approx(ratio(*sums))
    assert ratio(above, below, units=units) != pytest.approx(ratio(above, below))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("documents", [12, 30])
def test_an_interval_over_documents_holds_where_their_blocks_are_alike(documents, rho):
    rng, covered, units = np.random.default_rng(1), 0, np.repeat(np.arange(documents), 3)
    for _ in range(400):
        shared, own = rng.normal(size=documents)[units], rng.normal(size=3 * documents)
        _, low, high = mean(np.sqrt(rho) * shared + np.sqrt(1 - rho) * own, units=units)
        covered += low <= 0 <= high
    assert 0.925 <= covered / 400 <= 0.975
