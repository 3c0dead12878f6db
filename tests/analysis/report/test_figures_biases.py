from analysis.report.figures import draw
from analysis.report.style import NULL, RANDOM


def test_a_cosine_that_chance_gives_is_hollow_and_chance_is_behind_it(findings):
    axes = draw(findings["pca"]).axes
    centred, uncentred = axes[0], axes[2]
    assert {line.get_markerfacecolor() for line in centred.lines} == {"white"}
    assert "white" not in {line.get_markerfacecolor() for line in uncentred.lines}
    segments = centred.collections[0].get_segments()
    assert [tuple(y for _, y in segment) for segment in segments] == [(0.1, 0.15)] * 3


def test_counts_stand_on_the_range_that_chance_gives(findings):
    counts = draw(findings["moments"]).axes[-1]
    assert [list(line.get_xdata()) for line in counts.lines if line.get_color() == NULL] == [[0, 1]]
    assert [2] in [list(line.get_xdata()) for line in counts.lines]


def test_a_bias_that_passes_for_a_gaussian_is_hollow(findings):
    tails, signs, *_ = draw(findings["moments"]).axes
    assert "white" not in {line.get_markerfacecolor() for line in tails.lines if line.get_marker() in "vo"}
    assert {line.get_markerfacecolor() for line in signs.lines if line.get_marker() in "vo"} == {"white"}


def test_norms_of_all_scales_are_drawn(findings):
    norm, output, *_ = draw(findings["norms"]).axes
    assert {y for line in norm.lines for y in line.get_ydata()} == {2.0}
    assert {y for line in output.lines for y in line.get_ydata()} == {0.1}


def test_direct_effects_stand_beside_those_of_random_vectors(findings):
    spread, *_ = draw(findings["logits"]).axes
    random = next(line for line in spread.lines if line.get_color() == RANDOM)
    assert random.get_ydata().tolist() == [0.01] * 3
    assert {y for line in spread.lines if line is not random for y in line.get_ydata()} == {0.02}
