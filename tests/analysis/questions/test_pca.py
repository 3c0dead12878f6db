"""Alignment with principal components: of built vectors, of random ones, and of nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.questions import pca
from analysis.questions.pca import align, chance_cosines, chance_ratios, principal, turned
from analysis.subject import Subject, random_like, states_of
from search_spaces.errors import SponError

AXES = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
MEAN = 30 * AXES[:, 39]


def activations(tokens: int = 600, seed: int = 0) -> Tensor:
    """Ten strong directions, the first ten axes, and a large mean along the last."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.cat([torch.linspace(10, 5, 10), torch.full((30,), 0.1)]).double()
    return (torch.randn(tokens, 40, generator=generator, dtype=torch.float64) * sizes) @ AXES.T + MEAN


def share(bias: Tensor, components) -> float:
    return float(align(bias, components).square().sum())


@pytest.mark.parametrize(
    ("vector", "inside"), [(AXES[:, 0] + 2 * AXES[:, 3], 1), (AXES[:, 20], 0), (torch.zeros(40), 0)]
)
def test_a_vector_lies_in_the_span_by_its_share(vector, inside):
    assert share(vector, principal(activations())) == pytest.approx(inside, abs=1e-3)


def test_variance_is_shared_as_by_singular_values():
    x = activations()
    squares = torch.linalg.svdvals(x - x.mean(dim=0)).square()
    np.testing.assert_allclose(principal(x).variance, (squares / squares.sum())[:10], rtol=1e-8)


def test_without_centring_the_mean_is_the_first_component():
    assert align(MEAN, principal(activations(), centred=False))[0] == pytest.approx(1, abs=1e-3)
    assert share(MEAN, principal(activations())) < 0.01


def test_fewer_tokens_than_features_give_the_same_components():
    wide = torch.randn(100, 160, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = principal(wide, components=2)
    _, sizes, vectors = torch.linalg.svd(wide - wide.mean(dim=0), full_matrices=False)
    torch.testing.assert_close((found.vectors.T @ vectors[:2].T).abs(), torch.eye(2).double())
    np.testing.assert_allclose(found.variance, (sizes.square() / sizes.square().sum())[:2])


@pytest.mark.parametrize(("tokens", "width"), [(499, 40), (600, 9)])
def test_too_few_tokens_or_features_are_refused(tokens, width):
    with pytest.raises(SponError, match=f"10 components must have 500 tokens .* got {tokens} of {width}"):
        principal(torch.randn(tokens, width))


def test_random_vectors_are_found_at_the_nominal_rate(subject: Subject):
    found, verdicts = np.zeros(4), []
    for seed in range(20):
        finding = pca.find(replace(subject, biases=random_like(subject.biases, seed=200 + seed)))
        found += [effect.value > 0 for effect in finding.effects[::2]]
        verdicts += finding.verdict.split("; ")
    assert (found <= 4).all()  # of 20 each; one is expected
    assert sum("different from chance" not in verdict for verdict in verdicts) <= 12  # of 80; 4 are expected


def test_biases_built_from_the_components_of_their_site_are_found(subject: Subject):
    dense = states_of(subject.model, subject.blocks.tokens, subject.sites).outputs
    biases = {site: principal(dense[site].flatten(0, 1), 9).vectors[:, 2].float() for site in subject.sites}
    finding = pca.find(replace(subject, biases=biases))
    count, inside = finding.effects[:2]
    assert count.value == 5
    assert inside.value == pytest.approx(32 / 9, abs=1e-3)  # features over components, of 32 blocks of 15 tokens
    assert finding.verdict.startswith("output, centred: more inside the span than chance")
    assert all(row["component"] == 3 for row in finding.rows if (row["where"], row["centred"]) == ("output", True))


def test_the_stream_is_that_after_the_layer_of_the_site(subject: Subject):
    residual = states_of(subject.model, subject.blocks.tokens, ()).residual
    biases = {site: residual[site.layer].mean(dim=(0, 1)) for site in subject.sites}
    finding = pca.find(replace(subject, biases=biases))
    rows = [row for row in finding.rows if (row["where"], row["centred"]) == ("residual", False)]
    assert all(float(row["largest_cosine"]) > 0.9 for row in rows)
    assert "residual, not centred: more inside the span than chance" in finding.verdict


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.0), (0.8, 0.15)])
def test_layers_that_are_alike_are_found_no_more_often_than_others(rho, least):
    """Biases that wander along the layers, and components that all layers share."""
    rng, components = np.random.default_rng(0), principal(activations())
    beyond, alone = 0, 0
    independent = np.quantile(rng.beta(5, 15, size=(2000, 12)).mean(axis=1) * 4, (0.025, 0.975))
    for _ in range(100):
        biases = rng.normal(size=(12, 40))
        biases[0] /= np.sqrt(1 - rho**2)
        for layer in range(1, 12):
            biases[layer] += rho * biases[layer - 1]
        pairs = [(torch.from_numpy(bias), components) for bias in biases]
        low, high = np.quantile(chance_ratios(pairs, 100), (0.025, 0.975))
        found = np.mean([share(bias, components) for bias, _ in pairs]) * 4
        beyond += not low <= found <= high
        alone += not independent[0] <= found <= independent[1]
    assert beyond <= 14  # of 100; 5 and a little more, of so few draws, are expected
    assert alone >= 100 * least


def test_the_chance_of_a_cosine_is_that_of_whole_random_vectors():
    vectors = np.random.default_rng(1).standard_normal((20_000, 40))
    largest = np.abs(vectors[:, :3] / np.linalg.norm(vectors, axis=1, keepdims=True)).max(axis=1)
    chance = chance_cosines(40, 3)
    assert chance.mean() == pytest.approx(largest.mean(), rel=0.01)
    assert np.quantile(chance, 0.95) == pytest.approx(np.quantile(largest, 0.95), rel=0.015)
    assert chance_cosines(2, 2).min() >= np.sqrt(0.5) - 1e-12  # nothing is left over


def test_the_widths_of_the_study_leave_its_alignments_to_chance():
    chance = chance_cosines(2048, 10)
    assert (round(chance.mean(), 3), round(np.quantile(chance, 0.95), 3)) == (0.042, 0.062)


@pytest.mark.parametrize("shape", [(3, 8), (6, 2), (1, 4)])
def test_vectors_are_turned_all_together_to_any_side(shape):
    vectors = np.random.default_rng(0).standard_normal(shape)
    drawn = np.array(list(turned(vectors, 400)))
    np.testing.assert_allclose(
        drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(vectors @ vectors.T, (400, *shape[:1] * 2))
    )
    size = np.linalg.norm(vectors[0])
    assert drawn[:, 0].mean(axis=0) / size == pytest.approx(0, abs=0.15)  # an error of 0.05 at most
    assert np.square(drawn[:, 0, 0] / size).mean() == pytest.approx(1 / shape[1], abs=0.06)
