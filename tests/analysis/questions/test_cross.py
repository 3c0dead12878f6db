"""Several trials: alike by training, by their start, or not at all."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from analysis.questions.cross import compare, find, relation
from analysis.subject import Trained
from search_spaces.errors import SponError
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


def test_cosine_and_distance_by_hand():
    a, b = {SITES[0]: torch.tensor([3.0, 0.0])}, {SITES[0]: torch.tensor([3.0, 4.0])}
    found = compare(a, b)
    assert (found.cosines[0], found.distances[0]) == pytest.approx((0.6, 4))


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


def test_a_zero_bias_has_no_direction():
    assert compare({SITES[0]: torch.zeros(4)}, {SITES[0]: torch.ones(4)}).cosines[0] == 0


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


def test_what_differs_inside_a_part_of_two_trials(config):
    def inside(part: str, **change: object) -> str:
        changed = getattr(config, part).model_copy(update=change)
        return relation(config, config.model_copy(update={part: changed}))

    assert inside("training", seed=7) == "other data order"
    assert inside("training", lr=1.0) == "other training"
    assert inside("plan", rule="threshold") == "other sparsity plan"
    assert inside("model", dtype="bfloat16") == "other number format"
    assert inside("training", lr=1.0, seed=7) == "other training, other data order"


def test_trainings_that_converge_are_found(config):
    shared = vectors(0)
    trained = [Trained(seeded(config, seed), plus(shared, vectors(seed), 0.3), {}) for seed in (1, 2, 3)]
    finding = find(trained)
    assert "more alike in the same layer than across layers in 3 of 3 pairs" in finding.verdict
    assert "another data order or text have a mean cosine of +0.9" in finding.verdict
    assert len(finding.rows) == 3 * len(SITES)


def test_a_shared_start_is_not_taken_for_convergence(config):
    start = plus(vectors(0), vectors(0), 3)
    trained = [Trained(seeded(config, seed), plus(start, vectors(seed), 1), start) for seed in (1, 2)]
    whole, moved = find(trained).effects
    assert whole.value > 0.9
    assert moved.null is not None
    assert moved.null[0] <= moved.value <= moved.null[1]
    assert "in 0 of 1 pairs" in find(trained).verdict


def test_what_all_layers_have_in_common_is_not_taken_for_convergence(config):
    common = dict.fromkeys(SITES, torch.randn(64, generator=torch.Generator().manual_seed(9)))
    trained = [Trained(seeded(config, seed), plus(common, vectors(seed), 0.5), {}) for seed in (3, 4)]
    finding = find(trained)
    assert finding.effects[1].value > 0.7
    assert "in 0 of 1 pairs" in finding.verdict


def test_one_shared_site_is_no_test(config):
    trained = [Trained(seeded(config, seed), vectors(0, SITES[:1]), {}) for seed in (1, 2)]
    finding = find(trained)
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
        ([({}, SITES[4:])], "share a site, but no two do"),
        ([({"model_fingerprint": "x"}, SITES)], "must be of one model, but got"),
    ],
)
def test_what_cannot_be_compared_is_refused(others, message, config):
    rest = [
        Trained(config.model_copy(update=change | {"sites": tuple(map(str, sites))}), vectors(1, sites), {})
        for change, sites in others
    ]
    mine = config.model_copy(update={"sites": tuple(map(str, SITES[:4]))})
    with pytest.raises(SponError, match=message):
        find([Trained(mine, vectors(0, SITES[:4]), {}), *rest])


def test_two_sets_without_a_shared_site_are_refused():
    with pytest.raises(SponError, match="share a site"):
        compare(vectors(0, SITES[:4]), vectors(0, SITES[4:]))
