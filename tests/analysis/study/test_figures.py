import pytest

from analysis.study.figures import FIGURES, write_figures


def test_every_figure_is_written_twice(comparison, tmp_path):
    files = write_figures(comparison, tmp_path)
    assert len(files) == 2 * len(FIGURES) == 14
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_same_data_give_the_same_drawing(comparison, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
        write_figures(comparison, place)
    assert all((second / file.name).read_bytes() == file.read_bytes() for file in first.glob("*.svg"))


def test_bars_of_perplexity_start_at_the_dense_model(comparison):
    (axis,) = FIGURES["fig1_perplexity_bars"](comparison).axes
    for bar, row in zip(axis.patches, comparison.sweep.rows, strict=True):
        assert bar.get_y() == comparison.sweep.dense_ppl
        assert bar.get_y() + bar.get_height() == pytest.approx(row.ppl.ours)


def test_plans_have_panels_of_their_own(comparison):
    axes = FIGURES["fig3_pareto_frontiers"](comparison).axes
    assert [axis.get_title() for axis in axes] == ["down_proj@0.50 topk", "o_proj@0.50 topk"]
    assert {text.get_text() for text in axes[1].texts} == {"TEAL on o_proj", "ATTN-ONLY"}


def test_alignment_is_drawn_against_chance(comparison):
    band = FIGURES["fig4_pca_alignment"](comparison).axes[1].patches[0]
    found = comparison.alignments
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((found.chance_low, found.chance_high))


def test_the_kurtosis_is_drawn_as_the_study_has_it_and_corrected(comparison):
    axis = FIGURES["fig7_bias_statistics"](comparison).axes[2]
    rows = comparison.biases[comparison.analysed]
    drawn = [list(line.get_ydata()) for line in axis.lines]
    assert [row.excess_kurtosis for row in rows] in drawn
    assert [row.kurtosis.study for row in rows] in drawn
