"""Differences and their intervals by hand, and what the verdict counts."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from analysis.evaluation.stored import TaskScores, TextScores
from analysis.evaluation.tables import difference, ppl_recovered, tasks_finding, texts_finding


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
    assert verdict.startswith("of 2 metrics, clearly TEAL differs from dense on 1, SPON differs from dense on 2, ")
    assert verdict.endswith("SPON differs from TEAL on 1")


def test_no_difference_has_no_interval():
    same = np.array([0.0, 1.0, 1.0])
    assert difference(same, same) == (0, -np.inf, np.inf)
    (row,) = tasks_finding([task(**SCORES | {"spon": SCORES["teal"]})]).rows
    assert (row["SPON - TEAL"], row["SPON - TEAL_low"]) == (0, None)


def text(spon_kl: tuple[float, ...]) -> TextScores:
    return TextScores(
        text="t",
        fingerprint="f",
        cut="16",
        tokens=16,
        dense_nll=(1.0, 2.0, 3.0),
        teal_nll=(1.3, 2.2, 3.3),
        spon_nll=(1.2, 2.1, 3.1),
        teal_kl=(0.4, 0.5, 0.6),
        spon_kl=spon_kl,
    )


def test_a_text_has_perplexities_and_both_recoveries():
    found = texts_finding([text((0.3, 0.4, 0.5))])
    (row,) = found.rows
    ppl = np.exp([2.0, 6.8 / 3, 6.4 / 3])
    assert [row["dense PPL"], row["TEAL PPL"], row["SPON PPL"]] == pytest.approx(ppl)
    assert (row["TEAL KL"], row["SPON KL"], row["tokens"]) == (pytest.approx(0.5), pytest.approx(0.4), 48)
    assert row["KL recovered"] == pytest.approx(0.2)
    assert row["PPL recovered"] == pytest.approx((ppl[1] - ppl[2]) / (ppl[1] - ppl[0]))
    assert row["SPON - TEAL NLL"] == pytest.approx(-0.4 / 3)
    assert found.verdict == "the biases clearly recover KL on t (16)"


def test_a_recovery_that_is_not_certain_is_not_said_to_be():
    assert texts_finding([text((0.3, 0.6, 0.5))]).verdict.endswith("nowhere")


def test_no_share_is_given_of_a_damage_that_is_not_certain():
    teal = np.array([1.0, 2.5, 2.6])
    assert np.isnan(ppl_recovered(np.array([1.0, 2.0, 3.0]), teal, teal).value)
