import numpy as np
import pytest

from analysis.chance import chance_alignment, turned
from search_spaces.errors import SponError


def test_it_is_what_whole_random_vectors_give():
    vectors = np.random.default_rng(1).standard_normal((20_000, 40))
    largest = np.abs(vectors[:, :3] / np.linalg.norm(vectors, axis=1, keepdims=True)).max(axis=1)
    chance = chance_alignment(40, 3)
    assert chance.mean == pytest.approx(largest.mean(), rel=0.01)
    assert chance.percentile95 == pytest.approx(np.quantile(largest, 0.95), rel=0.015)


def test_one_component_has_the_known_mean():
    # E|cos| with one axis of three: the axis coordinate of a point on the sphere is uniform
    chance = chance_alignment(3, 1)
    assert chance.mean == pytest.approx(0.5, abs=0.005)
    assert chance.p_value(0.8) == pytest.approx(0.2, abs=0.006)


def test_with_as_many_components_as_entries_nothing_is_left_over():
    assert chance_alignment(2, 2).samples.min() >= np.sqrt(0.5) - 1e-12


def test_the_widths_of_the_study_leave_its_alignments_to_chance():
    chance = chance_alignment(2048, 10)
    assert (round(chance.mean, 3), round(chance.percentile95, 3)) == (0.042, 0.062)


def test_the_p_value_counts_the_observed_one_as_a_draw():
    chance = chance_alignment(16, 2, draws=9)
    assert chance.p_value(1.1) == 0.1
    assert chance.p_value(chance.samples[-1]) == 0.2
    assert chance.p_value(0.0) == 1


def test_one_seed_gives_one_distribution():
    assert np.array_equal(chance_alignment(8, 2, 5, seed=3).samples, chance_alignment(8, 2, 5, seed=3).samples)
    assert not np.array_equal(chance_alignment(8, 2, 5, seed=3).samples, chance_alignment(8, 2, 5, seed=4).samples)


@pytest.mark.parametrize(("width", "components", "draws"), [(4, 5, 10), (4, 0, 10), (4, 2, 0)])
def test_what_has_no_answer_is_refused(width, components, draws):
    with pytest.raises(SponError, match="must be"):
        chance_alignment(width, components, draws)


def test_vectors_are_turned_all_together():
    vectors = np.random.default_rng(0).standard_normal((3, 8))
    drawn = list(turned(vectors, 400))
    for one in drawn:
        np.testing.assert_allclose(one @ one.T, vectors @ vectors.T)
    along = np.array([np.square(one[0, :2]).sum() for one in drawn]) / np.square(vectors[0]).sum()
    assert along.mean() == pytest.approx(2 / 8, abs=0.03)
    assert np.mean([one[0] for one in drawn], axis=0) == pytest.approx(0, abs=0.2)


def test_the_signs_of_what_is_turned_are_random():
    firsts = [float(one[0, 0]) for one in turned(np.eye(1, 4), 400)]
    assert np.mean(firsts) == pytest.approx(0, abs=0.1)  # 0.025 is its error


def test_more_vectors_than_entries_are_turned_too():
    vectors = np.random.default_rng(0).standard_normal((6, 2))
    (one,) = turned(vectors, 1)
    np.testing.assert_allclose(one @ one.T, vectors @ vectors.T)
