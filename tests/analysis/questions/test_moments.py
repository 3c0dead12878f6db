"""Moments: intervals over entries, and tests against what Gaussian vectors look like."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace

from analysis.questions import moments
from analysis.questions.moments import chances_of, spread_of
from analysis.subject import Subject

WIDTH = 2000


def drawn(kind: str, seed: int = 0, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(width, generator=generator)
    if kind == "laplace":
        return Laplace(0.0, 1.0).icdf(uniform.clamp(1e-6, 1 - 1e-6))
    return uniform - 0.5 if kind == "uniform" else torch.randn(width, generator=generator)


@pytest.mark.parametrize(("kind", "truth"), [("gaussian", 0.0), ("laplace", 3.0), ("uniform", -1.2)])
def test_the_interval_of_the_kurtosis_holds_that_of_the_distribution(kind, truth):
    found = spread_of(drawn(kind))["excess_kurtosis"]
    assert found.low <= truth <= found.high
    assert found.high - found.low < 3


def test_the_interval_of_a_mean_is_about_students():
    found = spread_of(drawn("gaussian"))["mean"]
    x = drawn("gaussian").double()
    assert found.value == pytest.approx(x.mean().item())
    assert (found.high - found.low) / (2 * 1.96 * x.std() / WIDTH**0.5) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("kind", "said"), [("gaussian", ()), ("laplace", ("heavier",)), ("uniform", ("lighter",))])
def test_tails_are_told_from_those_of_gaussian_vectors(kind, said):
    found = chances_of(drawn(kind))
    assert tuple(name for name in ("heavier", "lighter") if getattr(found, name) < 0.025) == said


@pytest.mark.parametrize("width", [32, 576])
def test_gaussian_vectors_are_found_at_the_nominal_rate(width):
    found = [chances_of(1e-4 * drawn("gaussian", 1000 + seed, width)) for seed in range(400)]
    for name in ("heavier", "lighter"):
        assert 2 <= sum(getattr(test, name) < 0.025 for test in found) <= 20  # of 400; 10 are expected
    assert sum(test.sign < 0.05 for test in found) <= 32  # 20 at most are expected


def test_the_test_of_signs_is_the_binomial():
    found = chances_of(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, -1.0, 0.0]))
    assert found.sign == pytest.approx(2 * (1 + 6) / 2**6)  # five or more of six, either way; a zero has no sign


def test_a_constant_vector_has_no_tails_and_a_zero_one_no_sign():
    assert chances_of(torch.zeros(40)) == moments.Chances(1.0, 1.0, 1.0)
    assert chances_of(torch.ones(40)).heavier == 1.0


def test_heavy_lopsided_biases_are_found_and_gaussian_ones_are_not(subject: Subject):
    def verdict(kind: str, shift: float) -> str:
        biases = {site: drawn(kind, i) + shift for i, site in enumerate(subject.biases)}
        return moments.find(replace(subject, biases=biases)).verdict

    found = verdict("laplace", 0.1)
    assert "5 of 5 have heavier tails than a Gaussian; " in found
    assert "have more entries of one sign" in found
    assert verdict("gaussian", 0.0) == "tails and signs like those of Gaussian entries"


def test_rows_have_the_moments_of_the_biases(subject: Subject, finding_of):
    rows = finding_of("moments", "topk").rows
    for row, bias in zip(rows, subject.biases.values(), strict=True):
        x = bias.double().numpy()
        assert row["norm"] == pytest.approx(np.linalg.norm(x))
        assert row["excess_kurtosis"] == pytest.approx(((x - x.mean()) ** 4).mean() / x.var() ** 2 - 3)


def test_one_heavy_bias_among_gaussian_ones_is_found_and_the_count_is_that_of_all_together(subject: Subject):
    biases = {site: drawn("laplace" if i == 3 else "gaussian", i) for i, site in enumerate(subject.biases)}
    finding = moments.find(replace(subject, biases=biases))
    assert finding.verdict == "1 of 5 have heavier tails than a Gaussian"
    assert [float(row["p_heavier"]) < 0.025 for row in finding.rows] == [False, False, False, True, False]
