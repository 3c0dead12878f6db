from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.examine import COMPARISON, QUESTIONS, Settings, examine, subject_of
from analysis.finding import Finding
from analysis.report.figures import DRAWINGS, draw, write_figure
from search_spaces.errors import SponError
from trainables.trial import run_trial

NAMES = (*QUESTIONS, COMPARISON)


def overlaps(figure: Figure) -> list[str]:
    """Panels, with their labels, and head lines that reach into one another or out of the figure."""
    figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in figure.axes if axis.get_visible()]
    boxes += [text.get_window_extent() for text in figure.texts]
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].padded(-2).overlaps(boxes[j].padded(-2))]
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
    first, second = (write_figure(findings["where"], tmp_path / name) for name in "ab")
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
