import math

import pytest

from search_spaces.errors import SponError
from search_spaces.ranking import above_threshold, elbow, top_k

SCORES = {0: 0.1, 1: 0.9, 2: -0.3, 3: 0.5}


def by_layer(*scores):
    return dict(enumerate(scores))


@pytest.mark.parametrize(("k", "layers"), [(1, (1,)), (2, (1, 3)), (3, (0, 1, 3)), (4, (0, 1, 2, 3))])
def test_top_k_are_the_largest_in_the_order_of_depth(k, layers):
    assert top_k(SCORES, k) == layers


def test_of_equal_scores_the_earlier_layer_is_taken():
    assert top_k({5: 1.0, 2: 1.0, 7: 1.0}, 2) == (2, 5)


@pytest.mark.parametrize(("threshold", "layers"), [(0.2, (1, 3)), (0.5, (1,)), (-1.0, (0, 1, 2, 3))])
def test_above_a_threshold_is_strictly_above(threshold, layers):
    assert above_threshold(SCORES, threshold) == layers


@pytest.mark.parametrize("threshold", [0.9, 2.0])
def test_a_threshold_that_no_score_exceeds_is_refused_with_the_largest_score(threshold):
    with pytest.raises(SponError, match=rf"> {threshold}, but the largest is 0.9 \(layer 1\) \(at above_threshold\)"):
        above_threshold(SCORES, threshold)


@pytest.mark.parametrize(
    ("scores", "layers"),
    [
        (by_layer(1, 10, 0.5, 9, 8, 0.2), (1, 3, 4)),  # a cliff: the three before it
        (by_layer(8, 4, 2, 1, 0.5), (0, 1)),  # halving: the curve is lowest below its chord at 2
        (by_layer(*(1e-6 * score - 3 for score in (8, 4, 2, 1, 0.5))), (0, 1)),  # whatever the scale and offset
        (by_layer(10, 9.5, 9, 8, 1), (0, 1, 2, 3)),  # one poor layer at the end
        (by_layer(-1, 5, -1, -1), (1,)),
    ],
)
def test_an_elbow_parts_the_large_from_the_small(scores, layers):
    assert elbow(scores) == layers


@pytest.mark.parametrize("scores", [by_layer(1, 1, 1), by_layer(3, 2, 1), by_layer(1), by_layer(0, 0)])
def test_scores_on_a_line_have_no_elbow(scores):
    with pytest.raises(SponError, match=r"scores must bend for an elbow, but .* lie on a line \(at elbow\)"):
        elbow(scores)


@pytest.mark.parametrize("rule", [lambda scores: top_k(scores, 1), lambda scores: above_threshold(scores, 0.0), elbow])
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_layer(rule, score):
    with pytest.raises(SponError, match=r"a score must be finite, but layer 1 has"):
        rule({0: 1.0, 1: score})
