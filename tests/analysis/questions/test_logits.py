"""The direct effect on the logits, and random vectors that have as much of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis.questions import logits
from analysis.questions.logits import direct_effect
from analysis.subject import Subject, random_like
from search_spaces.sites import Site

STATES = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
HEAD = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]


def rms_norm(states: Tensor) -> Tensor:
    return states / states.square().mean(dim=-1, keepdim=True).sqrt()


def test_a_vector_along_a_tokens_row_raises_that_token():
    vectors = torch.stack([3 * HEAD[5], HEAD[2]])
    found = direct_effect(vectors, STATES, nn.Identity(), HEAD)
    assert found.raised[0] == 5
    assert len(found.raised) == len(found.lowered) == 6
    assert direct_effect(-vectors, STATES, nn.Identity(), HEAD).lowered[0] == 5


def test_spread_and_peak_by_hand():
    # Only token 5 changes, by 3: over 16 tokens that is a mean of 3/16 and a variance of 9 * 15/256
    found = direct_effect(3 * HEAD[5][None], STATES, nn.Identity(), HEAD)
    assert found.spread[0] == pytest.approx(3 * 15**0.5 / 16, rel=1e-5)
    assert found.peak[0] == pytest.approx((3 - 3 / 16) / (3 * 15**0.5 / 16), rel=1e-5)


def test_a_constant_change_of_all_logits_is_no_effect():
    vectors, shift = torch.randn(4, 16, generator=torch.Generator().manual_seed(2)), torch.randn(16)
    plain, shifted = (direct_effect(vectors, STATES, nn.Identity(), head) for head in (HEAD, HEAD + shift))
    np.testing.assert_allclose(plain.spread, shifted.spread, rtol=1e-5)
    assert plain.raised == shifted.raised


def test_the_norm_is_that_of_the_moved_state():
    vector = torch.full((16,), 0.7)
    found = direct_effect(vector[None], STATES, rms_norm, HEAD)  # type: ignore[arg-type]
    change = ((rms_norm(STATES + vector) - rms_norm(STATES)) @ HEAD.T).mean(dim=0).double()
    assert found.spread[0] == pytest.approx(change.std(correction=0).item(), rel=1e-5)


def test_a_zero_vector_has_neither_spread_nor_peak():
    found = direct_effect(torch.zeros(2, 16), STATES, nn.Identity(), HEAD)
    assert not found.spread.any()
    assert not found.peak.any()


def test_random_biases_are_found_at_the_nominal_rate(subject: Subject):
    found = np.zeros(2)
    for seed in range(20):
        large = {site: 9 * bias for site, bias in subject.biases.items()}
        finding = logits.find(replace(subject, biases=random_like(large, seed=100 + seed)))
        found += [effect.value > 0 for effect in finding.effects]
    assert (found <= 4).all()  # of 20 each; one is expected


@pytest.mark.parametrize("n", [1, 5])
def test_biases_that_most_logits_depend_on_are_found(n, subject: Subject):
    head = subject.model.head - subject.model.head.mean(dim=0)
    finding = logits.find(replace(subject, biases=dict.fromkeys(subject.sites[:n], torch.linalg.svd(head)[2][0])))
    assert finding.verdict.startswith(f"{n} of {n} larger than random vectors; ")


def test_tokens_are_named_as_the_tokenizer_says_them(subject: Subject):
    head = subject.model.head - subject.model.head.mean(dim=0)
    biases = {site: head[7 + site.layer] for site in subject.biases}
    finding = logits.find(replace(subject, biases=biases))
    assert [str(row["raised"]).split()[0] for row in finding.rows] == [f"'w{7 + layer}'" for layer in range(5)]


def test_biases_that_are_not_added_to_the_stream_have_no_direct_effect(subject: Subject):
    finding = logits.find(replace(subject, biases={Site(0, "q_proj"): torch.ones(32)}))
    assert finding.rows == ()
    assert finding.verdict == "no bias is added to the residual stream"
