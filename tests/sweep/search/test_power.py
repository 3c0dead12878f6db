"""Whether a text can tell masks apart, from scores that are made up."""

import numpy as np
import pytest

from sweep.search.mask_log import MaskRecord
from sweep.search.power import Power, power_lines, power_of
from tests.sweep.search.fabricated import trials_of

(TRIAL,) = trials_of("UNIF-ALL")


def records(spread, noise, n_masks=30, n_blocks=64, seed=0):
    """Masks whose KL differ by ``spread``, scored on blocks with noise of each mask's own and of the block."""
    rng = np.random.default_rng(seed)
    true = 1 + spread * rng.standard_normal((n_masks, 1))
    kl = true + noise * rng.standard_normal((n_masks, n_blocks)) + 5 * rng.standard_normal(n_blocks)
    return [MaskRecord(TRIAL, n_blocks, row.mean(), 3.0, tuple(row), 1.0) for row in kl]


def power(**changes):
    figures = {"n_masks": 9, "n_blocks": 64, "block_size": 100, "reliability": 0.5, "kl_nats": 0.5}
    return Power(**figures | {"paired_sd_nats": 0.04} | changes)


def test_the_reliability_is_that_of_all_the_text_and_not_of_its_halves():
    """Known variances: of the mean over all blocks, true variance over true and noise; ranks are a little below it."""
    found = [power_of(records(spread=0.125, noise=1.0, n_masks=100, seed=seed), 128).reliability for seed in range(10)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_what_a_block_adds_to_all_masks_is_no_noise_between_them():
    assert power_of(records(spread=0.0, noise=1.0), 128).paired_sd_nats == pytest.approx(2**0.5, rel=0.1)


def test_a_difference_as_large_as_the_visible_one_takes_the_text_that_there_is():
    assert power().blocks_to_see(power().visible_share) == pytest.approx(64, abs=1)


def test_the_text_for_a_reliability_is_that_of_spearman_and_brown():
    assert power(reliability=0.5).blocks_for(0.5) == 64
    assert power(reliability=0.5).blocks_for(0.75) == 3 * 64
    assert power(reliability=0.0).blocks_for(0.5) is None


def test_a_single_mask_or_block_has_no_power_and_two_masks_no_ranking():
    assert power_of(records(1.0, 1.0, n_masks=1), 128) is None
    assert power_of(records(1.0, 1.0, n_blocks=1), 128) is None
    assert power_of(records(1.0, 1.0, n_masks=2), 128).reliability is None


def test_the_lines_say_how_much_text_there_is_and_what_one_percent_takes():
    first, second = power_lines(power())
    assert "on 64 blocks (6,400 tokens), are ranked with a reliability of 0.50" in first
    assert "by 2.8% of their KL" in second
    assert "1% takes 50,200 tokens" in second


@pytest.mark.parametrize(
    ("reliability", "least", "goes_on"),
    [(0.4, 0.5, False), (0.5, 0.5, True), (-0.1, 0.5, False), (-0.1, 0.0, True), (None, 0.5, True)],
)
def test_a_search_of_which_no_reliability_is_asked_goes_on_whatever_it_is(reliability, least, goes_on):
    assert power(reliability=reliability).tells(least) is goes_on
