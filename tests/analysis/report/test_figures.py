from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.examine import COMPARISON, QUESTIONS, Settings, examine, subject_of
from analysis.finding import Finding
from analysis.report.figures import DRAWINGS, draw, write_figure
from analysis.report.panels import columns_for, place_sites
from analysis.report.style import BIASES, NULL, RANDOM, TEAL
from search_spaces.errors import SponError
from search_spaces.sites import MODULES
from trainables.trial import run_trial

NAMES = (*QUESTIONS, COMPARISON)


def overlaps(figure: Figure) -> list[str]:
    """Panels with their labels, tick labels and head lines that reach into one another or out of the figure."""
    figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in figure.axes if axis.get_visible()]
    boxes += [text.get_window_extent() for text in figure.texts]
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].padded(-2).overlaps(boxes[j].padded(-2))]
    for axis in (axis for axis in figure.axes if axis.get_visible()):
        for ticks in (axis.xaxis.get_major_ticks(), axis.yaxis.get_major_ticks()):
            shown = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_visible()]
            pairs += [(one, other) for one, other in pairwise(shown) if one.overlaps(other)]
    outside = [str(box) for box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1]
    return [f"{i} and {j}" for i, j in pairs] + outside


def test_every_question_has_a_figure_in_the_order_of_the_report():
    assert tuple(DRAWINGS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_has_the_title_the_verdict_and_room_for_every_panel(findings: dict[str, Finding], name: str):
    figure = draw(findings[name])
    title, verdict = figure.texts[:2]
    assert title.get_text() == findings[name].title
    assert verdict.get_text().replace("\n", " ") == findings[name].verdict
    assert overlaps(figure) == []


BARE = {"null": None, "interval": None}
CHANGES = {
    "no nulls and intervals": lambda found: {
        "effects": tuple(effect.model_copy(update=BARE) for effect in found.effects),
        "rows": tuple({k: None if k.endswith(("_low", "_high")) else v for k, v in row.items()} for row in found.rows),
    },
    "one row": lambda found: {"rows": found.rows[:1]},
    "no effects": lambda found: {"effects": ()},
    "empty cells": lambda found: {
        "rows": tuple({k: None if isinstance(v, float) else v for k, v in row.items()} for row in found.rows)
    },
}
"""What a finding may lack, and still be drawn."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_finding_that_lacks_something_is_drawn(findings: dict[str, Finding], name: str, change: str):
    assert draw(findings[name].model_copy(update=CHANGES[change](findings[name]))).axes


def test_without_rows_the_figure_says_so(findings: dict[str, Finding]):
    figure = draw(findings["logits"].model_copy(update={"rows": ()}))
    assert any("no rows" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {key: v for key, v in row.items() if key != "sd"}, "must have the column sd"),
        (lambda row: row | {"norm": "wide"}, "norm must hold numbers"),
        (lambda row: row | {"site": "somewhere"}, "somewhere"),
    ],
)
def test_a_fault_in_the_rows_is_named(change, message, findings: dict[str, Finding]):
    rows = tuple(map(change, findings["moments"].rows))
    with pytest.raises(SponError, match=message):
        draw(findings["moments"].model_copy(update={"rows": rows}))


def test_sites_of_a_layer_stand_side_by_side_around_it_and_many_need_the_whole_width():
    placed = place_sites(pd.DataFrame({"site": ["4.down_proj", "4.o_proj", "9.down_proj"]}))
    assert placed["layer"].tolist() == [4, 4, 9]
    assert placed["x"].tolist() == pytest.approx([4.2, 3.8, 9.2])
    assert columns_for(placed) == 2
    assert columns_for(place_sites(pd.DataFrame({"site": [f"0.{module}" for module in MODULES]}))) == 1


def test_the_same_finding_is_the_same_files(findings: dict[str, Finding], tmp_path: Path):
    first, second = (write_figure(draw(findings["where"]), tmp_path / name / "where") for name in "ab")
    assert [file.name for file in first] == ["where.png", "where.svg"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_what_real_questions_find_is_drawn(tiny_trial, tiny_bench):
    prompts = {"one": ["w1 w2 w3", "w4 w5 w6 w7"], "two": ["w9 w8 w7", "w3 w4"]}
    subject = subject_of(run_trial(tiny_bench, tiny_trial), Settings(prompts=prompts, n_blocks=4), "cpu")
    for finding in examine(subject, ("perplexity", "shift", "moments", "norms", "logits")):
        assert overlaps(draw(finding)) == [], finding.analysis


def test_a_panel_holds_all_sites_of_a_deep_model(findings: dict[str, Finding]):
    row = findings["moments"].rows[0]
    rows = tuple(row | {"site": f"{layer}.{module}"} for layer in range(30) for module in MODULES)
    figure = draw(findings["moments"].model_copy(update={"rows": rows}))
    x = np.sort(np.concatenate([line.get_xdata() for line in figure.axes[4].lines]))
    assert len(x) == 210
    assert np.diff(x).min() > 0.1
    assert overlaps(figure) == []


def drawn(axis, colour):
    """Points of a colour, (points, 2)."""
    lines = [line for line in axis.lines if line.get_color() == colour and line.get_marker() in ("o", ".")]
    return np.concatenate([np.column_stack(line.get_data()) for line in lines])


def test_damage_is_that_of_the_rows(findings):
    damage = draw(findings["perplexity"]).axes[0]
    assert drawn(damage, TEAL)[:, 0] == pytest.approx([0.3, 0.4, -0.1])
    assert drawn(damage, BIASES)[:, 0] == pytest.approx([0.2, 0.3, -0.1])
    assert drawn(damage, RANDOM)[:, 0] == pytest.approx([0.35, 0.45, -0.1])


def test_recovery_in_the_stream_goes_by_layer_beside_random_vectors_that_may_run_far_away(findings):
    outputs, stream, *_ = draw(findings["shift"]).axes
    assert outputs.get_ylim()[0] == -1  # cut
    assert drawn(stream, BIASES).tolist() == [[0, 0.4], [1, 0.4], [2, 0.4]]
    assert drawn(stream, RANDOM)[:, 1].tolist() == [-3.0] * 3


def test_every_property_of_tokens_has_a_panel_with_its_bins(findings):
    axes = [axis for axis in draw(findings["where"]).axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == ["By position", "By entropy", "By category"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        "0 to 7\nTEAL 0.125 nats",
        "8 to 15\nTEAL 0.125 nats",
    ]


def test_categories_stand_on_shuffled_labels_and_each_has_its_shift_and_its_cka_along_the_layers(findings):
    means, between, *_ = axes = draw(findings["categories"]).axes
    assert drawn(means, TEAL)[:, 0].tolist() == [0.5] * 6
    assert [0.1, 0.2] in [list(line.get_xdata()) for line in between.lines]
    first = next(place for place, axis in enumerate(axes) if axis.get_title(loc="left") == "math")
    shift, cka = axes[first], axes[first + 5]
    assert drawn(shift, TEAL).tolist() == [[layer, 0.3] for layer in range(3)]
    assert drawn(shift, BIASES).tolist() == [[layer, 0.2] for layer in range(3)]
    assert drawn(cka, TEAL)[:, 1].tolist() == [0.8] * 3
    assert drawn(cka, BIASES)[:, 1].tolist() == [0.9] * 3


def test_a_cosine_that_chance_gives_is_hollow_and_chance_is_behind_it(findings):
    axes = draw(findings["pca"]).axes
    centred, uncentred = axes[0], axes[2]
    assert {line.get_markerfacecolor() for line in centred.lines} == {"white"}
    assert "white" not in {line.get_markerfacecolor() for line in uncentred.lines}
    segments = centred.collections[0].get_segments()
    assert [tuple(y for _, y in segment) for segment in segments] == [(0.1, 0.15)] * 3


def test_a_bias_that_passes_for_a_gaussian_is_hollow_and_counts_stand_on_the_range_of_chance(findings):
    tails, signs, *_, counts = draw(findings["moments"]).axes
    assert [list(line.get_xdata()) for line in counts.lines if line.get_color() == NULL] == [[0, 1]]
    assert [2] in [list(line.get_xdata()) for line in counts.lines]
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


def test_scaled_biases_start_at_teal_and_pass_through_the_biases_themselves(findings):
    scaled = draw(findings["worth"]).axes[2].lines[0]
    assert scaled.get_xdata().tolist() == [0, 0.5, 1, 2]
    assert scaled.get_ydata().tolist() == [0, -0.2, -0.4, 0.3]


def test_what_parts_cost_stands_on_what_the_curves_predict(findings):
    parts, *_, ranks = draw(findings["levels"]).axes
    assert [label.get_text() for label in parts.get_yticklabels()] == ["q_proj 0-14", "down_proj 15-29"]
    predicted = [line.get_xdata() for line in parts.lines if line.get_color() == NULL]
    assert predicted == [pytest.approx((0.0, 0.2)), pytest.approx((0.2, 0.4))]
    assert [line.get_xdata()[0] for line in parts.lines if line.get_marker() == "o"] == [0.15, 0.15]
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["gain with level"]


def test_pairs_are_ordered_by_how_they_differ_with_means_on_their_nulls(findings):
    figure = draw(findings["cross"])
    whole, moved = figure.axes
    labels = [label.get_text() for label in whole.get_yticklabels()]
    assert labels == ["1 and 2: other allocation", "1 and 3: other data order"]
    assert [list(line.get_xdata()) for line in whole.lines if line.get_color() == NULL] == [[0.1, 0.2]] * 2
    assert not [line for line in moved.lines if line.get_color() == NULL]
    ticks = [line.get_xdata() for line in moved.lines if line.get_marker() == "|"]
    assert [sites.tolist() for sites in ticks] == [[0.5] * 3, [0.7] * 3]
    means = [line.get_xdata()[0] for line in moved.lines if line.get_color() == BIASES and line.get_marker() == "o"]
    assert means == [0.5, 0.5]
    assert "2 is b" in [text.get_text() for text in figure.legends[0].texts]
