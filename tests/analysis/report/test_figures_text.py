import numpy as np
import pytest

from analysis.report.figures import draw
from analysis.report.style import BIASES, RANDOM, TEAL


def drawn(axis, colour):
    """Points of a colour, (points, 2)."""
    lines = [line for line in axis.lines if line.get_color() == colour and line.get_marker() in ("o", ".")]
    return np.concatenate([np.column_stack(line.get_data()) for line in lines])


def test_damage_is_that_of_the_rows(findings):
    damage = draw(findings["perplexity"]).axes[0]
    assert drawn(damage, TEAL)[:, 1] == pytest.approx([0.3, 0.4, -0.1])
    assert drawn(damage, BIASES)[:, 1] == pytest.approx([0.2, 0.3, -0.1])
    assert drawn(damage, RANDOM)[:, 1] == pytest.approx([0.35, 0.45, -0.1])


def test_recovery_in_the_stream_goes_by_layer_beside_random_vectors(findings):
    stream = draw(findings["shift"]).axes[1]
    assert drawn(stream, BIASES).tolist() == [[0, 0.4], [1, 0.4], [2, 0.4]]
    assert drawn(stream, RANDOM)[:, 1].tolist() == [-3.0] * 3


def test_a_panel_is_cut_where_random_vectors_run_far_away(findings):
    assert draw(findings["shift"]).axes[0].get_ylim()[0] == -1


def test_every_property_of_tokens_has_a_panel_with_its_bins(findings):
    axes = [axis for axis in draw(findings["where"]).axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == ["By position", "By entropy", "By category"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        "0 to 7\nTEAL 0.125 nats",
        "8 to 15\nTEAL 0.125 nats",
    ]


def test_categories_are_drawn_with_the_range_of_shuffled_labels(findings):
    figure = draw(findings["categories"])
    means, between, *_ = figure.axes
    assert drawn(means, TEAL)[:, 0].tolist() == [0.5] * 6
    assert [0.1, 0.2] in [list(line.get_xdata()) for line in between.lines]


def test_every_category_has_its_shift_and_its_cka_along_the_layers(findings):
    axes = draw(findings["categories"]).axes
    first = next(place for place, axis in enumerate(axes) if axis.get_title(loc="left") == "math")
    shift, cka = axes[first], axes[first + 5]
    assert drawn(shift, TEAL).tolist() == [[layer, 0.3] for layer in range(3)]
    assert drawn(shift, BIASES).tolist() == [[layer, 0.2] for layer in range(3)]
    assert drawn(cka, TEAL)[:, 1].tolist() == [0.8] * 3
    assert drawn(cka, BIASES)[:, 1].tolist() == [0.9] * 3
