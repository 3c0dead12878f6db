import pytest
import torch

from analysis.biases import describe_biases
from analysis.study.layout import PcaAlignment, StateShifts
from analysis.study.vectors import alignments, bias_rows, shifts, study_kurtosis
from search_spaces.sites import Site


def test_the_study_s_kurtosis_is_reproduced_and_the_right_one_stands_beside_it(comparison):
    for found in comparison.biases["TOP-50_s0.50"]:
        assert found.kurtosis.ours == pytest.approx(found.kurtosis.study, abs=1e-9)
        assert found.excess_kurtosis == pytest.approx(0, abs=0.4)  # they are Gaussian
        assert found.kurtosis.ours < found.excess_kurtosis


def test_the_study_s_denominator_hides_small_vectors():
    # of 1, -1, 3, -3 the variance is 5 and the fourth moment 41; at a scale of 1e-3, sd^4 is 25e-12
    (found,) = describe_biases({Site(0, "down_proj"): torch.tensor([1.0, -1.0, 3.0, -3.0], dtype=torch.float64) * 1e-3})
    assert study_kurtosis(found) == pytest.approx(41 / 26 - 3)
    assert found.excess_kurtosis == pytest.approx(41 / 25 - 3)


def test_statistics_equal_those_computed_otherwise(comparison):
    for found in comparison.biases["TOP-50_s0.50"]:
        for pair in (found.norm, found.mean, found.sd, found.max_abs, found.positive_fraction, found.rank):
            assert pair.ours == pytest.approx(pair.study, rel=1e-6)


def test_a_checkpoint_that_the_study_did_not_describe_has_no_figures_of_it():
    (found,) = bias_rows({Site(0, "o_proj"): torch.tensor([1.0, 2.0])}, {}, ())
    assert (found.norm.study, found.rank.study, found.kurtosis.study) == (None, None, None)
    assert found.norm.ours == pytest.approx(5**0.5)


def test_two_checkpoints_are_compared_where_both_have_a_bias(comparison):
    assert [pair.site for pair in comparison.pairs] == [f"{layer}.down_proj" for layer in range(8)]
    for pair in comparison.pairs:
        assert pair.cosine.agrees(".4f")
        assert pair.l2.agrees(".4f")
    assert comparison.mean_cosine.ours == pytest.approx(sum(p.cosine.study for p in comparison.pairs) / 8, abs=1e-4)


def alignment(*cosines: float) -> PcaAlignment:
    return PcaAlignment(pc_similarities=cosines, explained_variance=(), max_alignment=0.0, best_pc=0)


def test_alignment_takes_the_largest_whatever_its_sign():
    found = alignments({"0.down_proj": alignment(0.1, -0.3, 0.2)}, width=64, draws=200)
    assert (found.rows[0].max_alignment.ours, found.rows[0].best.ours) == (0.3, 1)
    assert found.components == 3


def test_the_p_value_is_corrected_for_the_number_of_sites():
    sites = {f"{layer}.down_proj": alignment(0.0, 0.0) for layer in range(4)} | {"4.down_proj": alignment(0.35, 0.0)}
    found = alignments(sites, width=64, draws=1000)
    assert [row.p_value for row in found.rows[:4]] == [1, 1, 1, 1]
    assert 0 < found.rows[4].p_value < 0.05
    assert found.p_value == pytest.approx(5 * found.rows[4].p_value)


def test_a_mean_of_percentages_is_not_the_percentage_of_the_means():
    small = {"teal_shift_l2": 0.1, "spon_shift_l2": 0.2, "recovery_pct": -100.0}
    large = {"teal_shift_l2": 0.9, "spon_shift_l2": 0.9, "recovery_pct": 0.0}
    said = {"avg_teal_shift": 0.5, "avg_spon_shift": 0.55, "avg_recovery_pct": -50.0}
    raw = {"layer_0_down_proj": small, "layer_1_down_proj": large, "_aggregate": said}
    found = shifts(StateShifts.model_validate(raw))
    assert found.mean_recovery_pct.ours == -50
    assert found.recovery_of_means_pct == pytest.approx(-10)


def test_category_means_are_over_sites(comparison):
    (category,) = comparison.categories
    assert (category.l2.ours, category.cka.ours) == (pytest.approx(0.2), pytest.approx(0.95))
