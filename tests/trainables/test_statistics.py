"""Bootstrap intervals: they cover, they are paired, and the same seed draws the same."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from trainables.scores import Scores
from trainables.statistics import Interval, bootstrap_unit, paired_bootstrap, seed_margin, spearman, widened

NLL = {"nll": lambda means: means["a"].nll}
DIFFERENCE = {"difference": lambda means: means["a"].kl - means["b"].kl}


def scores_of(nll: np.ndarray, kl: np.ndarray | None = None, tokens: np.ndarray | None = None) -> Scores:
    """Documents with given means, and as many blocks of the same."""
    counts = (
        torch.full((len(nll),), 10.0, dtype=torch.float64)
        if tokens is None
        else torch.tensor(tokens, dtype=torch.float64)
    )
    nll_sums = torch.tensor(nll, dtype=torch.float64) * counts
    kl_sums = nll_sums if kl is None else torch.tensor(kl, dtype=torch.float64) * counts
    return Scores(nll_sums, kl_sums, counts, counts, nll_sums, kl_sums, counts, counts)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        interval = paired_bootstrap({"a": scores_of(rng.normal(2, 1, 60))}, NLL, resamples=1000)["nll"]
        covered += interval.low <= 2 <= interval.high
    assert 0.91 <= covered / 300 <= 0.97


def test_an_interval_holds_its_value_and_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(2, 1, 400)
    interval = paired_bootstrap({"a": scores_of(values)}, NLL)["nll"]
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_identical_models_differ_by_exactly_nothing():
    same = scores_of(np.random.default_rng(2).normal(2, 1, 40))
    assert paired_bootstrap({"a": same, "b": same}, DIFFERENCE)["difference"] == (0, 0, 0)


def test_paired_differences_are_much_surer_than_unpaired_ones():
    rng = np.random.default_rng(3)
    hard = rng.normal(2, 1, 100)  # documents differ far more than the two models do
    a, b = hard + rng.normal(0.1, 0.05, 100), hard
    paired = paired_bootstrap({"a": scores_of(a), "b": scores_of(b)}, DIFFERENCE)["difference"]
    unpaired = paired_bootstrap({"a": scores_of(a), "b": scores_of(rng.permutation(b))}, DIFFERENCE)["difference"]
    assert paired.low > 0
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 5


def test_a_smaller_tail_gives_a_wider_interval_around_the_same_value():
    models = {"a": scores_of(np.random.default_rng(4).normal(2, 1, 40))}
    plain = paired_bootstrap(models, NLL)["nll"]
    wide = paired_bootstrap(models, NLL, tail=0.025 / 10)["nll"]
    assert wide.value == plain.value
    assert wide.low < plain.low < plain.high < wide.high


@pytest.mark.parametrize(("documents", "unit"), [(9, "blocks"), (10, "documents")])
def test_few_documents_give_way_to_blocks(documents, unit):
    assert bootstrap_unit(scores_of(np.ones(documents))) == unit


def test_blocks_are_resampled_where_documents_are_few():
    one = torch.tensor([60.0], dtype=torch.float64)
    by_block = scores_of(np.linspace(1, 3, 40))
    scores = Scores(*list(by_block.tensors().values())[:4], one, one, one, one)
    interval = paired_bootstrap({"a": scores}, NLL)["nll"]
    assert interval.value == pytest.approx(scores.nll_nats)
    assert interval.low < interval.high


def test_documents_that_no_block_touches_are_not_drawn():
    values, tokens = np.linspace(1, 3, 12), np.full(12, 10.0)
    full = paired_bootstrap({"a": scores_of(values)}, NLL)
    padded = scores_of(np.append(values, [0.0, 0.0]), tokens=np.append(tokens, [0.0, 0.0]))
    assert paired_bootstrap({"a": padded}, NLL) == full


def test_long_documents_weigh_more():
    values, tokens = np.array([1.0] * 10 + [3.0] * 10), np.array([30.0] * 10 + [10.0] * 10)
    figures = NLL | {"ppl": lambda means: means["a"].ppl}
    found = paired_bootstrap({"a": scores_of(values, tokens=tokens)}, figures)
    assert found["nll"].value == pytest.approx(1.5)
    assert found["ppl"].value == pytest.approx(np.exp(1.5))


def test_the_rank_correlation_is_that_of_the_library_ties_and_all():
    rng = np.random.default_rng(6)
    x = rng.integers(0, 8, 30).astype(float)
    y = x + rng.integers(0, 8, 30)
    assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_the_interval_of_a_rank_correlation_covers_it_and_narrows_with_more_pairs():
    rng = np.random.default_rng(7)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    few, many = spearman(x[:25], y[:25]), spearman(x, y)
    assert few.low < few.value < few.high < 1
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low < spearmanr(x, y).statistic < many.high


def test_resamples_without_a_correlation_are_left_out():
    interval = spearman([1, 2, 3], [1, 3, 2])  # one draw in nine is thrice the same pair
    assert np.isfinite(interval).all()


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [4, 4, 4])], ids=["few", "uneven", "constant"]
)
def test_what_has_no_rank_correlation_is_refused(x, y):
    with pytest.raises(ValueError, match="three pairs and two sides that vary"):
        spearman(x, y)


# Seeds


def test_what_a_seed_does_to_all_models_and_what_models_are_is_no_error():
    figures = np.array([[1.0], [2.0], [5.0]]) + np.array([0.0, 0.5, -0.25])
    assert seed_margin(figures) == pytest.approx(0.0, abs=1e-12)


def test_one_seed_or_one_model_tells_nothing_of_seeds():
    assert seed_margin(np.ones((3, 1))) == 0.0
    assert seed_margin(np.array([[1.0, 2.0]])) == 0.0


def test_the_margin_of_seeds_covers_the_true_difference_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        figures = rng.standard_normal((4, 3)) + rng.standard_normal(3)  # four equal models, three seeds
        difference = figures[0].mean() - figures[1].mean()
        inside.append(abs(difference) <= seed_margin(figures))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_an_interval_widens_by_an_independent_error():
    assert widened(Interval(1.0, 0.7, 1.4), 0.4) == pytest.approx((1.0, 0.5, 1 + 0.4 * 2**0.5))
