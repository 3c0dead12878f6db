"""Differences and their intervals by hand, and what the verdict counts."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from analysis.evaluation.stored import TaskScores
from analysis.evaluation.tables import difference, tasks_finding


def task(**scores: tuple[float, ...]) -> TaskScores:
    return TaskScores(task="t", metric="acc", limit=None, fewshot=0, **scores)


SCORES = {"dense": (1.0, 1.0, 1.0, 1.0), "teal": (0.0, 0.1, 0.2, 0.1), "spon": (0.3, 0.1, 0.1, 0.4)}


def test_a_row_has_means_and_students_intervals_of_paired_differences():
    (row,) = tasks_finding([task(**SCORES)]).rows
    arrays = {mode: np.array(scores) for mode, scores in SCORES.items()}
    assert (row["dense"], row["TEAL"], row["SPON"]) == pytest.approx([a.mean() for a in arrays.values()])
    assert row["items"] == 4
    apart = arrays["spon"] - arrays["teal"]
    expected = ttest_1samp(apart, 0).confidence_interval(0.95)
    assert row["SPON - TEAL"] == pytest.approx(apart.mean())
    assert (row["SPON - TEAL_low"], row["SPON - TEAL_high"]) == pytest.approx((expected.low, expected.high))
    assert row["TEAL - dense"] == pytest.approx(-0.9)
    assert row["SPON - dense"] == pytest.approx(0.225 - 1)


def test_the_verdict_counts_what_is_sure():
    verdict = tasks_finding([task(**SCORES), task(**SCORES | {"teal": SCORES["dense"]})]).verdict
    assert verdict.startswith("of 2 metrics, surely TEAL differs from dense on 1, SPON differs from dense on 2, ")
    assert verdict.endswith("SPON differs from TEAL on 1")


def test_no_difference_has_no_interval():
    same = np.array([0.0, 1.0, 1.0])
    assert difference(same, same) == (0, -np.inf, np.inf)
    (row,) = tasks_finding([task(**SCORES | {"spon": SCORES["teal"]})]).rows
    assert (row["SPON - TEAL"], row["SPON - TEAL_low"]) == (0, None)
