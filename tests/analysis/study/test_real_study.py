"""The study's own results; skipped where they do not lie beside the checkout. Its figures are read from its files."""

import pytest

from analysis.study.importer import import_study
from analysis.study.tables import BIASES, CATEGORIES, PAIRS, SWEEP, Column


def pairs(rows, columns: tuple[Column, ...], head: str):
    column = next(column for column in columns if column.head == head)
    return [(column.read(row), column.spec) for row in rows]


@pytest.mark.parametrize("head", ["rank", "norm", "sd", "max abs", "positive", "kurtosis, sd^4+1e-12"])
def test_bias_statistics_equal_the_study_s(real, head):
    found = pairs(real.biases["TOP-50_s0.50"], BIASES, head)
    assert len(found) == 8
    assert all(pair.agrees(spec) for pair, spec in found)


def test_the_corrected_kurtosis(real):
    found = [round(row.excess_kurtosis, 2) for row in real.biases["TOP-50_s0.50"]]
    assert found == [3.00, 0.04, 0.28, 0.02, 0.09, 0.24, 0.34, 0.07]


def test_the_study_s_kurtosis_comes_of_its_denominator(real):
    assert max(abs(row.kurtosis.ours - row.kurtosis.study) for row in real.biases["TOP-50_s0.50"]) < 1e-6


@pytest.mark.parametrize("head", ["cosine", "L2"])
def test_the_two_checkpoints_compare_as_the_study_says(real, head):
    found = pairs(real.pairs, PAIRS, head)
    assert len(found) == 8
    assert all(pair.agrees(spec) for pair, spec in found)
    assert real.mean_cosine.agrees(".4f")


@pytest.mark.parametrize("head", ["params", "PPL", "vs TEAL %", "vs dense %"])
def test_the_sweep_table_equals_the_study_s(real, head):
    found = pairs(real.sweep.rows, SWEEP, head)
    assert len(found) == 12
    assert all(pair.agrees(spec) for pair, spec in found)


@pytest.mark.parametrize("head", ["mean L2", "mean CKA"])
def test_category_means_equal_the_study_s(real, head):
    assert all(pair.agrees(spec) for pair, spec in pairs(real.categories, CATEGORIES, head))


def test_damage_recovered_of_the_best_runs(real):
    found = {(row.plan, row.allocation): round(100 * row.recovered, 1) for row in real.sweep.best()}
    assert found == {
        ("down_proj@0.50 topk", "UNIF-ALL"): 22.8,
        ("o_proj@0.50 topk", "ATTN-ONLY"): 80.7,
        ("down_proj@0.60 topk", "UNIF-ALL"): 23.3,
        ("o_proj@0.60 topk", "ATTN-ONLY"): 77.5,
    }


def test_the_derived_baselines_are_whole_multiples_of_the_study_s_step(real):
    assert real.sweep.nll_step_nats == 16
    derived = [baseline for baseline in real.sweep.baselines if baseline.derived]
    assert [f"{baseline.ppl:.2f}" for baseline in derived] == ["21.64", "22.19", "22.73"]
    assert all(abs(baseline.nll_steps - round(baseline.nll_steps)) < 1e-9 for baseline in derived)


def test_the_pareto_set_of_the_study_lists_what_another_run_dominates(real):
    at_half = real.sweep.frontiers[0]
    assert at_half.by_plan["down_proj@0.50 topk"] == ("TEAL on down_proj", "TOP-50", "TOP-75", "UNIF-ALL")
    assert "UNIF-ALL" in at_half.study
    assert "ATTN-ONLY" in {it.allocation: it.by for it in at_half.dominated}["UNIF-ALL"]
    assert at_half.pooled == ("TEAL on o_proj", "ATTN-ONLY")
    assert real.sweep.frontiers[1].by_plan["down_proj@0.60 topk"] == ("TEAL on down_proj", "TOP-50", "UNIF-ALL")


def test_its_alignment_with_principal_components_is_chance(real):
    found = real.alignments
    assert (found.width, found.components) == (2048, 10)
    assert all(row.max_alignment.agrees(".6f") for row in found.rows)
    assert all(row.best.agrees(".0f") for row in found.rows)
    assert found.p_value > 0.05


def test_the_real_directory_is_imported_whole(real_directory, tmp_path):
    assert "equal at these digits" in import_study(real_directory, tmp_path)
    assert len(list(tmp_path.glob("trials/*/checkpoint/spon.safetensors"))) == 2
