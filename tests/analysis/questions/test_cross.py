"""Several trials: alike by training, by their start, or not at all."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from analysis.questions.cross import compare, find, incomparable, relation
from analysis.subject import Trained
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig

SITES = [Site(layer, "down_proj") for layer in range(8)]


def vectors(seed: int, sites: list[Site] = SITES) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(64, generator=generator) for site in sites}


def plus(one: dict[Site, Tensor], other: dict[Site, Tensor], share: float) -> dict[Site, Tensor]:
    return {site: one[site] + share * other[site] for site in one}


@pytest.fixture
def config(subject) -> TrialConfig:
    return subject.config


def seeded(config: TrialConfig, seed: int) -> TrialConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def test_a_trial_is_like_itself_and_unlike_its_own_layers_shuffled():
    found = compare(vectors(0), vectors(0))
    assert found.cosines == pytest.approx(1)
    assert found.distances == pytest.approx(0)
    assert len(found.shifted) == 7
    assert found.null is not None
    assert found.null[1] < 0.3
    assert found.p < 1e-6


@pytest.mark.parametrize(("vector", "cosine", "distance"), [([3.0, 0.0], 0.6, 4), ([0.0, 0.0], 0, 5)])
def test_cosine_and_distance_by_hand(vector, cosine, distance):
    found = compare({SITES[0]: torch.tensor(vector)}, {SITES[0]: torch.tensor([3.0, 4.0])})
    assert (found.cosines[0], found.distances[0]) == pytest.approx((cosine, distance))


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_independent_biases_are_as_alike_as_those_of_other_layers(rho):
    """However alike neighbours are in each of them."""

    def wandering(seed: int) -> dict[Site, Tensor]:
        found = vectors(seed, SITES)
        for one, other in pairwise(SITES):
            found[other] = found[other] + rho * found[one]
        return found

    pairs = [compare(wandering(2 * seed), wandering(2 * seed + 1)) for seed in range(200)]
    assert sum(found.cosines.mean() > found.null[1] for found in pairs if found.null) <= 12  # 5 are expected
    assert all((found.p < 0.025) == (found.cosines.mean() > found.null[1]) for found in pairs if found.null)


def test_only_shared_sites_are_compared():
    assert compare(vectors(0), vectors(0, SITES[2:5])).sites == tuple(SITES[2:5])


@pytest.mark.parametrize(("layers", "tested"), [(1, False), (4, False), (5, True)])
def test_layers_are_shifted_where_the_true_order_could_stand_out(layers, tested):
    found = compare(vectors(0, SITES[:layers]), vectors(1, SITES[:layers]))
    assert bool(len(found.shifted)) is tested
    assert (found.null is not None) is tested


def test_layers_are_shifted_within_their_module_and_around_its_end():
    narrow = {Site(layer, "k_proj"): torch.ones(16) for layer in range(2)}
    one, other = vectors(0), vectors(1)
    found = compare(one | narrow, other | narrow)
    for k in range(1, 8):
        pairs = [(one[SITES[i]], other[SITES[(i + k) % 8]]) for i in range(8)]
        cosines = [float(torch.cosine_similarity(*pair, dim=0)) for pair in pairs]
        assert found.shifted[k - 1] == pytest.approx((sum(cosines) + 2) / 10, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "the same trial"),
        ({"model_fingerprint": "x"}, "another model"),
        ({"corpus_fingerprint": "x"}, "other text"),
        ({"sites": ("0.down_proj",)}, "other allocation"),
    ],
)
def test_what_differs_between_two_trials(change, expected, config):
    assert relation(config, config.model_copy(update=change)) == expected


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        ("training", {"seed": 7}, "other data order"),
        ("training", {"lr": 1.0}, "other training"),
        ("training", {"lr": 1.0, "seed": 7}, "other training, other data order"),
        ("plan", {"rule": "threshold"}, "other sparsity plan"),
        ("model", {"dtype": "bfloat16"}, "other number format"),
    ],
)
def test_what_differs_inside_a_part_of_two_trials(part, change, expected, config):
    changed = getattr(config, part).model_copy(update=change)
    assert relation(config, config.model_copy(update={part: changed})) == expected


def test_trainings_that_converge_are_found(config):
    trained = [Trained(seeded(config, seed), plus(vectors(0), vectors(seed), 0.3), {}) for seed in (1, 2, 3)]
    finding = find(trained)
    assert "more alike in the same layer than across layers in 3 of 3 pairs" in finding.verdict
    assert "another data order or text have a mean cosine of +0.9" in finding.verdict
    assert len(finding.rows) == 3 * len(SITES)


def test_a_shared_start_is_not_taken_for_convergence(config):
    start = plus(vectors(0), vectors(0), 3)
    trained = [Trained(seeded(config, seed), plus(start, vectors(seed), 1), start) for seed in (1, 2)]
    finding = find(trained)
    whole, moved = finding.effects
    assert whole.value > 0.9
    assert moved.side == 0
    assert "in 0 of 1 pairs" in finding.verdict


def test_what_all_layers_have_in_common_is_not_taken_for_convergence(config):
    common = dict.fromkeys(SITES, torch.randn(64, generator=torch.Generator().manual_seed(9)))
    trained = [Trained(seeded(config, seed), plus(common, vectors(seed), 0.5), {}) for seed in (3, 4)]
    finding = find(trained)
    assert finding.effects[1].value > 0.7
    assert "in 0 of 1 pairs" in finding.verdict


def test_one_shared_site_is_no_test(config):
    finding = find([Trained(seeded(config, seed), vectors(0, SITES[:1]), {}) for seed in (1, 2)])
    assert finding.effects[0].interval is None
    assert finding.verdict.startswith("too few layers are shared")


def test_it_is_said_if_no_equal_trainings_are_there(config):
    other = config.model_copy(update={"sites": ("0.down_proj",)})
    finding = find([Trained(config, vectors(0), {}), Trained(other, vectors(1), {})])
    assert "the likeness of equal trainings is unknown" in finding.verdict


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "two checkpoints, but got 1"),
        ([{"sites": ("4.down_proj",)}], "share a site, but no two do"),
        ([{"model_fingerprint": "x"}], "must be of one model, but got"),
    ],
)
def test_what_cannot_be_compared_is_told(others, message, config):
    mine = config.model_copy(update={"sites": ("0.down_proj",)})
    assert message in (incomparable([mine, *(mine.model_copy(update=change) for change in others)]) or "")
    assert incomparable([mine, mine]) is None
