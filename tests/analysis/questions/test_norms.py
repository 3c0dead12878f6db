"""Norms beside the scale of their sites, and their trend with depth."""

from dataclasses import replace

import pytest
import torch

from analysis.questions import norms
from analysis.questions.norms import Scale, scales_of
from analysis.subject import Subject, start_of, states_of
from search_spaces.sites import Site
from tests.analysis.conftest import with_levels, with_plan
from trainables.sparse import sparsified
from trainables.teal import keep_largest


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


def test_the_mean_error_is_of_all_tokens_and_the_scales_are_of_all_but_the_first(subject: Subject):
    site, inputs = subject.sites[0], []
    handle = subject.model.linear(site).register_forward_hook(lambda _, args, output: inputs.append((args[0], output)))
    with torch.inference_mode():
        subject.model.hidden(subject.blocks.tokens)
    handle.remove()
    x, output = inputs[0]
    taken = x - keep_largest(x, subject.config.plan.levels[str(site)])
    scale = scales_of(subject)[site]
    assert scale.output == pytest.approx(output[:, 1:].norm(dim=-1).mean().item(), rel=1e-5)
    mean = (subject.model.linear(site).weight @ taken.mean(dim=(0, 1))).detach()
    torch.testing.assert_close(scale.mean_error, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tokens", ["all", "second_half"])
def test_the_mean_error_is_the_one_that_a_bias_correction_starts_from(subject_by, tokens):
    subject: Subject = with_plan(subject_by("input_vector"), tokens=tokens)
    held_out = replace(subject, blocks=subject.bench.blocks("calibration"))
    scales, starts = scales_of(held_out), start_of(subject.bench, subject.config)
    assert starts.keys() == scales.keys()
    for site, start in starts.items():
        torch.testing.assert_close(start, 0.5 * scales[site].mean_error, rtol=1e-3, atol=1e-4)


def test_a_bias_where_nothing_is_sparsified_has_no_scale(subject: Subject):
    rest = with_levels(subject, {str(site): 0.6 for site in subject.sites[1:]})
    assert tuple(scales_of(rest)) == subject.sites[1:]


def verdict_on(values: list[float], subject: Subject, monkeypatch: pytest.MonkeyPatch, output: float = 1.0) -> str:
    """Of as many layers with these norms, and scales of their outputs that do not vary."""
    sites = [Site(layer, "down_proj") for layer in range(len(values))]
    monkeypatch.setattr(norms, "scales_of", lambda _: dict.fromkeys(sites, Scale(output, 0.0, torch.zeros(32))))
    biases = {site: value * torch.ones(32) for site, value in zip(sites, values, strict=True)}
    return norms.find(replace(subject, biases=biases)).verdict


def test_the_trend_is_said(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    grows = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    said = verdict_on(grows, subject, monkeypatch)
    assert said == "down_proj: norm grows with depth; down_proj: norm over that of the output grows with depth"
    assert verdict_on(grows[::-1], subject, monkeypatch).startswith("down_proj: norm falls with depth")
    wanders = [3.0, 1, 5, 2, 4, 8, 6, 10, 7, 9]
    assert verdict_on(wanders[5:] + wanders[:5], subject, monkeypatch).startswith("down_proj: norm has no trend")
    assert verdict_on(grows, subject, monkeypatch, output=0.0) == "down_proj: norm grows with depth"
    assert verdict_on(grows[:7], subject, monkeypatch).startswith("nothing to rank: no module has 8")


def test_the_ranking_is_by_norm_and_norms_are_relative_to_the_scales(subject: Subject):
    unit = torch.ones(32) / 32**0.5
    biases = {site: value * unit for value, site in enumerate(subject.biases, 1)}
    rows, scale = norms.find(replace(subject, biases=biases)).rows, scales_of(subject)[subject.sites[4]]
    assert [row["site"] for row in rows] == [f"{layer}.down_proj" for layer in (4, 3, 2, 1, 0)]
    assert rows[0]["norm_over_output"] == pytest.approx(5 / scale.output, rel=1e-5)
    assert rows[0]["norm_over_error"] == pytest.approx(5 / scale.error, rel=1e-5)
