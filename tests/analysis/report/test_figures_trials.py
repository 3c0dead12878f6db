from analysis.report.figures import draw
from analysis.report.style import BIASES, NULL


def test_scaled_biases_start_at_teal_and_pass_through_the_biases_themselves(findings):
    scaled = draw(findings["worth"]).axes[2].lines[0]
    assert scaled.get_xdata().tolist() == [0, 0.5, 1, 2]
    assert scaled.get_ydata().tolist() == [0, -0.2, -0.4, 0.3]


def test_pairs_are_ordered_by_how_they_differ_with_means_on_their_nulls(findings):
    whole, moved, names = draw(findings["cross"]).axes
    labels = [label.get_text() for label in whole.get_yticklabels()]
    assert labels == ["1 and 2: other allocation", "1 and 3: other data order"]
    assert [list(line.get_xdata()) for line in whole.lines if line.get_color() == NULL] == [[0.1, 0.2]] * 2
    assert not [line for line in moved.lines if line.get_color() == NULL]
    ticks = [line.get_xdata() for line in moved.lines if line.get_marker() == "|"]
    assert [sites.tolist() for sites in ticks] == [[0.5] * 3, [0.7] * 3]
    means = [line.get_xdata()[0] for line in moved.lines if line.get_color() == BIASES and line.get_marker() == "o"]
    assert means == [0.5, 0.5]
    assert "2 is b" in names.texts[0].get_text()
