"""Category shifts: what a permutation test finds and what it does not, and an unbiased CKA."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.finding import Finding
from analysis.questions import categories
from analysis.questions.categories import contrast, linear_cka, no_more_than
from analysis.resampling import between_groups
from analysis.subject import Subject
from search_spaces.errors import SponError

OF = np.repeat(np.arange(5), 20)
UNITS = np.repeat(np.arange(12), 5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_planted_category_effect_is_found_and_a_shuffled_one_is_not():
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 30, 100).astype(float)
    planted = rng.normal(size=100) + 1.5 * (OF == 2)
    found, shuffled = contrast(planted, OF, lengths), contrast(rng.permutation(planted), OF, lengths)
    assert found.between > found.null[1]
    assert max(found.p, found.p_length) < 0.01
    assert shuffled.null[0] <= shuffled.between <= shuffled.null[1]
    assert shuffled.p > 0.05


def test_an_effect_through_length_vanishes_when_length_is_taken_out():
    rng = np.random.default_rng(0)
    lengths = np.round(np.exp(2 + 0.3 * OF + rng.normal(0, 0.2, 100)))
    found = contrast(-np.log(lengths) + rng.normal(0, 0.3, 100), OF, lengths)
    assert found.p < 0.01
    assert found.p_length > 0.05
    assert found.p_no_more < 0.05


def test_lengths_are_not_said_to_explain_what_too_few_prompts_leave_open():
    few = OF[::5]
    assert no_more_than(0.05, OF, np.ones((100, 2))) < 0.05  # a share that chance gives to 100 prompts
    assert no_more_than(0.2, few, np.ones((20, 2))) > 0.05  # and to 20


def test_an_equivalence_at_the_margin_is_said_in_five_of_100_cases():
    rng, said = np.random.default_rng(0), 0
    effects = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[OF]
    effects *= np.sqrt(0.1 / 0.9 / effects.var())  # a tenth of the variance
    for _ in range(400):
        values = effects + rng.normal(size=100)
        constant = np.ones((100, 1))
        said += no_more_than(float(between_groups(values, OF, constant)), OF, constant) < 0.05
    assert 8 <= said <= 34  # of 400; 20 are expected


def test_one_category_differs_from_nothing():
    found = contrast(np.random.default_rng(0).normal(size=9), np.zeros(9, dtype=np.int64), np.arange(3.0, 12.0))
    assert (found.p, found.p_length) == (1, 1)


def brute_hsic(x: Tensor, y: Tensor) -> float:
    """The U-statistic by its definition, over all quadruples of different tokens."""
    k, m = ((z @ z.T).numpy() for z in (x, y))
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return float(np.mean(terms))


def test_cka_is_that_of_the_u_statistic_of_hsic():
    x, y = noise(9, 3), noise(9, 4, seed=1)
    y[:, 0] += x[:, 0]
    expected = brute_hsic(x, y) / np.sqrt(brute_hsic(x, x) * brute_hsic(y, y))
    assert linear_cka(x, y, np.arange(9)).value == pytest.approx(expected)


def test_the_jackknife_leaves_whole_prompts_out():
    x, y = noise(60, 6), noise(60, 6, seed=1) + noise(60, 6)
    found = linear_cka(x, y, UNITS)
    kept = [np.flatnonzero(unit != UNITS) for unit in range(12)]
    left = np.array([linear_cka(x[keep], y[keep], UNITS[keep]).value for keep in kept])
    error = np.sqrt(11 / 12 * ((left - left.mean()) ** 2).sum())
    assert (found.high - found.value) / error == pytest.approx(2.201, abs=1e-3)  # Student's, 11 degrees of freedom


@pytest.mark.parametrize("change", ["same", "rotated", "scaled", "moved"])
def test_cka_of_equal_states_is_one_whatever_the_basis(change):
    x = noise(60, 8)
    y = {"same": x, "rotated": x @ torch.linalg.qr(noise(8, 8, seed=2))[0], "scaled": -3 * x, "moved": x + 5}[change]
    assert linear_cka(x, y, UNITS) == pytest.approx((1, 1, 1))


def test_cka_of_independent_states_is_about_zero_where_the_biased_estimator_is_not():
    x, y = noise(60, 200), noise(60, 200, seed=1)
    found = linear_cka(x, y, UNITS)
    k, m = (c @ c.T for c in (x - x.mean(dim=0), y - y.mean(dim=0)))
    assert (k * m).sum() / (k.norm() * m.norm()) > 0.5
    assert found.value == pytest.approx(0, abs=0.05)
    assert found.low < 0 < found.high


def test_states_that_do_not_vary_have_no_cka_and_too_few_tokens_are_refused():
    assert np.isnan(linear_cka(torch.ones(60, 4), noise(60, 4), UNITS).value)
    with pytest.raises(SponError, match="4 tokens beside any prompt's, but got 6"):
        linear_cka(noise(6, 3), noise(6, 3), np.array([0, 0, 0, 1, 1, 1]))


def test_shifts_are_those_of_the_hidden_states(subject: Subject, finding_of: Callable[[str, str], Finding]):
    row = next(r for r in finding_of("categories", "topk").rows if (r["category"], r["layer"]) == ("coding", 2))
    network, moved = subject.model.network, []
    for prompt in (p for p in subject.prompts if p.category == "coding"):
        with torch.inference_mode():
            dense = network(prompt.tokens[None], output_hidden_states=True).hidden_states[3]
            with subject.mode("spon"):
                spon = network(prompt.tokens[None], output_hidden_states=True).hidden_states[3]
        moved.append(((spon - dense).norm(dim=-1) / dense.norm(dim=-1))[:, 1:].mean().item())
    assert row["spon_relative"] == pytest.approx(np.mean(moved), rel=1e-4)  # of all tokens but the first


def test_a_category_of_other_text_is_found(subject: Subject):
    prompts = [p for p in subject.prompts if p.category != "math"]
    same = [prompts[0]._replace(category="same", tokens=torch.full((4 + i % 4,), 5)) for i in range(8)]
    finding = categories.find(replace(subject, prompts=(*prompts, *same)))
    assert "biases: categories differ" in finding.verdict
    same_rows = [row for row in finding.rows if row["category"] == "same"]
    assert same_rows[0]["teal_cka"] is same_rows[0]["teal_cka_high"] is None  # its states do not vary
