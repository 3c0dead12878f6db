import pytest

from analysis.study.layout import Results
from analysis.study.perplexity import better, compare_sweep, nll_step, pareto_set
from analysis.study.trials import study_trials
from search_spaces.errors import SponError
from tests.analysis.study.fabricated import DENSE, O_PROJ_TEAL, TOTAL, ppl, results


def row(comparison, name):
    return next(row for row in comparison.sweep.rows if row.allocation == name)


def test_every_figure_of_the_table_comes_out_as_stored(comparison):
    for found in comparison.sweep.rows:
        for pair in (found.ppl, found.params, found.vs_teal_pct, found.vs_dense_pct):
            assert pair.ours == pytest.approx(pair.study, abs=1e-9)


def test_recovery_is_against_teal_on_the_same_modules(comparison):
    teal, dense = ppl(TOTAL["BASELINE-TEAL"]), ppl(DENSE)
    assert row(comparison, "TOP-50").recovered == pytest.approx((teal - ppl(TOTAL["TOP-50"])) / (teal - dense))
    teal = ppl(O_PROJ_TEAL)
    assert row(comparison, "ATTN-ONLY").recovered == pytest.approx((teal - ppl(TOTAL["ATTN-ONLY"])) / (teal - dense))
    assert row(comparison, "BASELINE-TEAL").recovered is None


def test_what_the_study_did_not_run_is_marked_as_derived(comparison):
    known = {b.plan: (b.ppl, b.derived) for b in comparison.sweep.baselines}
    assert known[None] == (pytest.approx(ppl(DENSE)), True)
    assert known["o_proj@0.50 topk"] == (pytest.approx(ppl(O_PROJ_TEAL)), True)
    assert known["down_proj@0.50 topk"] == (pytest.approx(ppl(TOTAL["BASELINE-TEAL"])), False)


def test_derived_baselines_fall_on_the_step_of_the_stored_losses(comparison):
    assert comparison.sweep.nll_step_nats == 4
    assert [b.nll_steps for b in comparison.sweep.baselines] == [
        pytest.approx(total / 4) for total in (DENSE, TOTAL["BASELINE-TEAL"], O_PROJ_TEAL)
    ]


def test_losses_that_are_not_whole_have_no_step():
    raw = results()
    raw["results"]["TOP-50_s0.5"]["loss"] += 1e-3
    assert nll_step(Results.model_validate(raw).results.values()) is None


def test_the_best_run_of_each_plan(comparison):
    assert [found.allocation for found in comparison.sweep.best()] == ["UNIF-ALL", "ATTN-ONLY"]


def test_pareto_sets_are_within_a_plan_and_the_study_s_is_shown_beside_them(comparison):
    (frontier,) = comparison.sweep.frontiers
    assert frontier.by_plan == {
        "down_proj@0.50 topk": ("TEAL on down_proj", "TOP-50", "UNIF-ALL"),
        "o_proj@0.50 topk": ("TEAL on o_proj", "ATTN-ONLY"),
    }
    assert frontier.study == ("TEAL on down_proj", "TOP-50", "UNIF-ALL", "ATTN-ONLY")
    assert frontier.pooled == ("TEAL on o_proj", "ATTN-ONLY")


def test_what_the_study_lists_although_dominated(comparison):
    beaten = {it.allocation: it.by for it in comparison.sweep.frontiers[0].dominated}
    assert beaten == {
        "TEAL on down_proj": ("TEAL on o_proj",),
        "TOP-50": ("TEAL on o_proj",),
        "UNIF-ALL": ("ATTN-ONLY",),
    }


def test_no_set_is_made_up_for_a_sparsity_that_the_study_left_out():
    found = Results.model_validate(results())
    assert compare_sweep(found, (), study_trials(found)).frontiers[0].study is None


def test_a_point_is_not_better_than_its_equal():
    points = {"a": (1.0, 2), "b": (1.0, 2), "c": (1.0, 3), "d": (0.9, 3)}
    assert [better(name, points) for name in points] == [(), (), ("a", "b", "d"), ()]
    assert pareto_set(points) == ("a", "b", "d")


def test_runs_that_disagree_about_a_baseline_are_refused():
    raw = results()
    raw["results"]["TOP-50_s0.5"]["ppl_vs_dense"] *= 1.001
    found = Results.model_validate(raw)
    with pytest.raises(SponError, match="one perplexity of the dense model"):
        compare_sweep(found, (), study_trials(found))
