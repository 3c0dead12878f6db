from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.examine import COMPARISON, QUESTIONS, Settings, examine, subject_of
from analysis.finding import Finding
from analysis.report.figures import DRAWINGS, draw, write_figure
from analysis.report.style import BIASES, NULL, RANDOM, TEAL
from search_spaces.errors import SponError
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


@pytest.mark.parametrize("name", NAMES)
def test_a_finding_without_nulls_and_intervals_is_drawn(findings: dict[str, Finding], name: str):
    bare = [effect.model_copy(update={"null": None, "interval": None}) for effect in findings[name].effects]
    rows = [{key: None if key.endswith(("_low", "_high")) else v for key, v in r.items()} for r in findings[name].rows]
    assert draw(findings[name].model_copy(update={"effects": tuple(bare), "rows": tuple(rows)})).axes


@pytest.mark.parametrize("name", NAMES)
def test_one_row_is_drawn(findings: dict[str, Finding], name: str):
    assert draw(findings[name].model_copy(update={"rows": findings[name].rows[:1]})).axes


@pytest.mark.parametrize("name", NAMES)
def test_no_effects_are_drawn(findings: dict[str, Finding], name: str):
    assert draw(findings[name].model_copy(update={"effects": ()})).axes


@pytest.mark.parametrize("name", NAMES)
def test_empty_cells_are_drawn(findings: dict[str, Finding], name: str):
    rows = [{key: None if isinstance(v, float) else v for key, v in row.items()} for row in findings[name].rows]
    assert draw(findings[name].model_copy(update={"rows": tuple(rows)})).axes


def test_without_rows_the_figure_says_so(findings: dict[str, Finding]):
    figure = draw(findings["logits"].model_copy(update={"rows": ()}))
    assert any("no rows" in text.get_text() for text in figure.texts)


def test_a_missing_column_is_named(findings: dict[str, Finding]):
    rows = tuple({key: v for key, v in row.items() if key != "sd"} for row in findings["moments"].rows)
    with pytest.raises(SponError, match=r"column sd.*\(at moments\)"):
        draw(findings["moments"].model_copy(update={"rows": rows}))


def test_text_in_the_place_of_a_number_is_named(findings: dict[str, Finding]):
    rows = tuple(row | {"norm": "wide"} for row in findings["moments"].rows)
    with pytest.raises(SponError, match="norm must hold numbers"):
        draw(findings["moments"].model_copy(update={"rows": rows}))


def test_an_unknown_question_has_no_figure(findings: dict[str, Finding]):
    with pytest.raises(SponError, match="must be one of perplexity"):
        draw(findings["pca"].model_copy(update={"analysis": "astrology"}))


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
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    rows = tuple(row | {"site": f"{layer}.{module}"} for layer in range(30) for module in modules)
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
