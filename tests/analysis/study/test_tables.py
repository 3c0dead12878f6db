import pytest

from analysis.study.compared import Compared
from analysis.study.tables import BIASES, SWEEP, Column, agreement, as_latex, as_text, frame


def test_a_compared_figure_has_two_columns(comparison):
    table = frame(comparison.biases["TOP-50_s0.50"], BIASES)
    assert list(table.columns)[:5] == ["site", "rank", "study", "norm", "study"]
    assert len(table) == 8


def test_a_figure_that_the_study_lacks_is_a_dash(comparison):
    table = frame(comparison.biases["UNIF-ALL_s0.50"], BIASES)
    assert set(table["study"].to_numpy().flat) == {"--"}
    assert set(frame(comparison.sweep.rows[:1], SWEEP)["PPL rec."]) == {"--"}


def test_agreement_is_counted_at_the_digits_shown():
    rows = [Compared(study=1.04, ours=1.01), Compared(study=1.06, ours=1.01), Compared(study=None, ours=1.0)]
    assert agreement(rows, [Column("x", lambda row: row, ".1f")]) == "equal at these digits: x 1/2"


def test_the_text_says_what_differs_and_why(comparison):
    text = as_text(comparison)
    assert "equal at these digits: params 4/4, PPL 4/4, vs TEAL % 4/4, vs dense % 4/4" in text
    assert "on the study's list although dominated by ATTN-ONLY" in text
    assert "every stored total loss is a multiple of 4 nats" in text
    assert "kurtosis, sd^4+1e-12 8/8" in text


def test_losses_without_a_step_check_nothing(comparison):
    baselines = tuple(b.model_copy(update={"nll_steps": None}) for b in comparison.sweep.baselines)
    sweep = comparison.sweep.model_copy(update={"nll_step_nats": None, "baselines": baselines})
    assert "nothing checks the derived baselines" in as_text(comparison.model_copy(update={"sweep": sweep}))


@pytest.mark.parametrize("line", [r"ATTN-ONLY & o\_proj@0.50 topk & 16 & 32,768", r"\label{tab:study-biases}"])
def test_the_latex_has_both_tables(comparison, line):
    assert line in as_latex(comparison)


def test_latex_special_signs_are_escaped(comparison):
    assert all(r"\%" in line or "%" not in line for line in as_latex(comparison).splitlines())
    assert r"\caption{Biases of TOP-50\_s0.50}" in as_latex(comparison)
