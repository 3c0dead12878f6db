"""Findings on disk."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from analysis.finding import Analysis, Effect, Examined, Finding, cells, read_analysis
from search_spaces.files import write_config
from trainables.statistics import Interval


def finding(name: str, verdict: str = "none") -> Finding:
    effect = Effect.of("a figure", Interval(1.0, 0.5, 1.5), "nats", (0.0, 0.0))
    return Finding(
        analysis=name, title="", question="", null="", effects=(effect,), verdict=verdict, rows=({"x": None},)
    )


@pytest.fixture
def analysis() -> Analysis:
    subject = Examined(
        name="a", identity="b", allocation="c", plan="d", seed=1, split="validation", n_blocks=2, text="e"
    )
    return Analysis(subjects=(subject,), findings=(finding("pca"), finding("shift")))


def test_what_is_written_is_read(analysis: Analysis, tmp_path: Path):
    file = tmp_path / "new" / "analysis.json"
    write_config(analysis, file)
    assert read_analysis(file) == analysis
    assert [path.name for path in file.parent.iterdir()] == ["analysis.json"]


def test_a_newer_answer_takes_the_place_of_the_older(analysis: Analysis):
    newer = analysis.having([finding("pca", "found")])
    assert [(f.analysis, f.verdict) for f in newer.findings] == [("pca", "found"), ("shift", "none")]


def test_an_interval_without_end_is_none_and_a_figure_that_does_not_exist_an_empty_cell():
    endless = Interval(0.5, -math.inf, math.inf)
    assert Effect.of("x", endless).interval is None
    assert cells("x", endless) == {"x": 0.5, "x_low": None, "x_high": None}
    assert cells("x", Interval(math.nan, math.nan, math.nan)) == {"x": None, "x_low": None, "x_high": None}
    with pytest.raises(ValidationError):
        Effect(label="x", value=math.nan)
