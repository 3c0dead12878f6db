"""Norms beside the scale of their sites, and their trend with depth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.questions import norms
from analysis.questions.norms import depth_correlation, scales_of
from analysis.subject import Subject, states_of
from tests.analysis.conftest import with_levels
from trainables.sparse import sparsified


@pytest.mark.parametrize("kind", ["topk", "threshold"])
def test_scales_are_those_of_the_outputs_with_and_without_sparsity(kind, subject_by):
    subject: Subject = subject_by(kind)
    tokens, site = subject.blocks.tokens, subject.sites[0]
    assert str(site) == {"topk": "0.down_proj", "threshold": "0.o_proj"}[kind]  # nothing before it is sparsified
    alone = subject.config.plan.model_copy(update={"levels": {str(site): subject.config.plan.levels[str(site)]}})
    dense = states_of(subject.model, tokens, (site,)).outputs[site].double()
    with sparsified(subject.model, alone, subject.bench.thresholds(subject.config.plan)):
        sparse = states_of(subject.model, tokens, (site,)).outputs[site].double()
    scale = scales_of(subject)[site]
    assert scale.output == pytest.approx(dense.norm(dim=-1).mean().item(), rel=1e-5)
    assert scale.error == pytest.approx((dense - sparse).norm(dim=-1).mean().item(), rel=1e-4)
    torch.testing.assert_close(scale.mean_error.double(), (dense - sparse).mean(dim=(0, 1)), rtol=1e-3, atol=1e-5)


def test_the_mean_error_is_the_one_that_a_bias_correction_starts_from(subject_by):
    subject: Subject = subject_by("input_vector")
    held_out = replace(subject, blocks=subject.bench.blocks("calibration"))
    scales = scales_of(held_out)
    for site, start in subject.start.items():
        torch.testing.assert_close(start, 0.5 * scales[site].mean_error, rtol=1e-3, atol=1e-4)


def test_a_bias_where_nothing_is_sparsified_has_no_scale(subject: Subject):
    rest = with_levels(subject, {str(site): 0.6 for site in subject.sites[1:]})
    assert tuple(scales_of(rest)) == subject.sites[1:]


def test_a_trend_with_depth_is_found_and_shuffled_norms_have_none():
    rho, null = depth_correlation(np.array([1.0, 2.0, 4.0, 8.0, 16.0, 17.0, 20.0, 30.0]))
    assert rho == pytest.approx(1)
    assert rho > null[1]
    assert null == pytest.approx((-0.71, 0.71), abs=0.05)


def test_no_trend_is_found_at_the_nominal_rate():
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(200):
        rho, (low, high) = depth_correlation(rng.normal(size=8), draws=200)
        beyond += not low <= rho <= high
    assert beyond <= 20  # 10 are expected


def test_spearman_by_hand():
    assert depth_correlation(np.array([2.0, 1.0, 4.0, 3.0]))[0] == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert depth_correlation(np.array([1.0, 1.0, 2.0, 2.0]))[0] == pytest.approx(0.8944, abs=1e-4)  # ties


def with_norms(subject: Subject, values: list[float]) -> Subject:
    unit = torch.ones(32) / 32**0.5
    return replace(subject, biases=dict(zip(subject.biases, (value * unit for value in values), strict=True)))


def test_the_ranking_is_by_norm_and_the_trend_is_said(subject: Subject):
    finding = norms.find(with_norms(subject, [1, 2, 3, 4, 5]))
    assert [row["site"] for row in finding.rows] == [f"{layer}.down_proj" for layer in (4, 3, 2, 1, 0)]
    assert finding.verdict.startswith("down_proj: norm grows with depth")
    assert norms.find(with_norms(subject, [5, 4, 3, 2, 1])).verdict.startswith("down_proj: norm falls with depth")
    assert norms.find(with_norms(subject, [3, 1, 5, 2, 4])).verdict.startswith("down_proj: norm has no trend")


def test_norms_are_relative_to_the_scales(subject: Subject):
    scales, row = scales_of(subject), norms.find(with_norms(subject, [1, 1, 1, 1, 9])).rows[0]
    scale = scales[subject.sites[4]]
    assert row["norm_over_output"] == pytest.approx(9 / scale.output, rel=1e-5)
    assert row["norm_over_error"] == pytest.approx(9 / scale.error, rel=1e-5)


def test_of_four_sites_no_trend_can_be_told(subject: Subject):
    four = replace(subject, biases={site: subject.biases[site] for site in subject.sites[:4]})
    finding = norms.find(four)
    assert finding.effects == ()
    assert finding.verdict.startswith("nothing to rank")
