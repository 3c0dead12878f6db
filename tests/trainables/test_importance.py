"""Importance of players: by hand, on games whose Shapley values are known, and against autograd."""

import itertools
import math

import numpy as np
import pytest
import torch

from search_spaces.errors import SponError
from search_spaces.sites import Site
from trainables.evaluation import token_scores
from trainables.importance import Importance, by_gain, by_gradient, leave_one_out, shapley
from trainables.sparse import sparsified
from trainables.spon import SponBiases

PLAYERS = tuple(frozenset({Site(layer, "o_proj"), Site(layer, "down_proj")}) for layer in range(5))
WEIGHTS = np.array([0.3, -0.1, 0.0, 0.7, 0.2])
DOWN = [frozenset({Site(layer, "down_proj")}) for layer in (0, 1)]


def members(mask):
    """Which players are in a mask, as 0 and 1."""
    assert all(player <= mask or not player & mask for player in PLAYERS)
    return np.array([player <= mask for player in PLAYERS], dtype=float)


def additive(mask):
    return 2 - members(mask) @ WEIGHTS


def pairwise(mask):
    """Players in each other's way, two at a time."""
    present = members(mask)
    return additive(mask) + 0.1 * (present @ WEIGHTS) ** 2


def saturating(mask):
    """Interactions of all orders."""
    return math.exp(-2 * members(mask) @ np.abs(WEIGHTS))


def exact_shapley(score):
    gains = []
    for order in itertools.permutations(range(5)):
        masks = [frozenset().union(*(PLAYERS[i] for i in order[:n])) for n in range(6)]
        scores = [score(mask) for mask in masks]
        gains.append([scores[order.index(i)] - scores[order.index(i) + 1] for i in range(5)])
    return np.mean(gains, axis=0)


def test_leave_one_out_by_hand():
    importance = leave_one_out(pairwise, PLAYERS)
    total = WEIGHTS.sum()
    expected = WEIGHTS + 0.1 * ((total - WEIGHTS) ** 2 - total**2)
    np.testing.assert_allclose(importance.value, expected, atol=1e-12)
    assert importance.players == PLAYERS
    assert importance.standard_error == (0,) * 5


def test_shapley_of_an_additive_game_is_its_weights():
    importance = shapley(additive, PLAYERS, pairs=2, seed=0)
    np.testing.assert_allclose(importance.value, WEIGHTS, atol=1e-12)
    np.testing.assert_allclose(importance.standard_error, 0, atol=1e-12)


@pytest.mark.parametrize("score", [additive, pairwise, saturating])
def test_shapley_values_sum_to_what_all_players_take_off(score):
    importance = shapley(score, PLAYERS, pairs=3, seed=1)
    everyone = frozenset().union(*PLAYERS)
    assert sum(importance.value) == pytest.approx(score(frozenset()) - score(everyone), abs=1e-12)


def test_an_order_and_its_reverse_cancel_pairwise_interactions():
    importance = shapley(pairwise, PLAYERS, pairs=2, seed=0)
    np.testing.assert_allclose(importance.value, exact_shapley(pairwise), atol=1e-12)


def test_players_of_a_symmetric_game_are_equal():
    def majority(mask):
        return 1 / (1 + members(mask).sum() ** 2)

    importance = shapley(majority, PLAYERS, pairs=400, seed=2)
    equal = (majority(frozenset()) - majority(frozenset().union(*PLAYERS))) / 5
    for value, error in zip(importance.value, importance.standard_error, strict=True):
        assert abs(value - equal) < 4 * error


def test_the_standard_error_is_how_far_estimates_are_off():
    runs = [shapley(saturating, PLAYERS, pairs=20, seed=seed) for seed in range(60)]
    off = np.array([run.value for run in runs]) - exact_shapley(saturating)
    claimed = np.mean([run.standard_error for run in runs], axis=0)
    assert np.abs(off.mean(axis=0)).max() < 4 * claimed.max() / math.sqrt(60)
    np.testing.assert_allclose(np.sqrt((off**2).mean(axis=0)), claimed, rtol=0.35)


def test_pairs_are_surer_than_as_many_orders_drawn_alone():
    exact, rng = exact_shapley(saturating), np.random.default_rng(3)

    def alone():
        """Ten orders, none the reverse of another."""
        gains = np.zeros(5)
        for _ in range(10):
            mask = frozenset()
            for i in rng.permutation(5):
                gains[i] += saturating(mask) - saturating(mask | PLAYERS[i])
                mask |= PLAYERS[i]
        return gains / 10

    paired = np.array([shapley(saturating, PLAYERS, pairs=5, seed=seed).value for seed in range(40)])
    plain = np.array([alone() for _ in range(40)])
    assert ((paired - exact) ** 2).mean() < ((plain - exact) ** 2).mean() / 2


def test_the_seed_decides_the_orders():
    one, same, other = (shapley(saturating, PLAYERS, pairs=2, seed=seed) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_shapley_asks_for_as_many_scores_as_it_says():
    asked = []
    shapley(lambda mask: float(asked.append(mask) or 0), PLAYERS, pairs=3, seed=0)
    assert len(asked) == 2 * 3 * 4 + 2


def test_one_pair_has_no_standard_error():
    with pytest.raises(SponError, match=r"at least 2 pairs, but got 1 \(at pairs\)"):
        shapley(additive, PLAYERS, pairs=1, seed=0)


@pytest.mark.parametrize("players", [(*PLAYERS, PLAYERS[0]), (PLAYERS[0], frozenset())], ids=["twice", "empty"])
def test_players_that_are_not_disjoint_groups_are_refused(players):
    with pytest.raises(SponError, match="disjoint groups of at least one site"):
        leave_one_out(additive, players)


def plain_gradients(bench, plan, n_blocks):
    """Gradient of the KL at zero biases on each calibration block, from full logits: (blocks, site, width)."""
    tokens = bench.blocks("calibration").tokens[:n_blocks]
    biases = SponBiases(bench.model, tuple(site for group in DOWN for site in group), "output_bias")
    log_p = bench.model.network(input_ids=tokens).logits.log_softmax(-1)
    rows = []
    with sparsified(bench.model, plan, {}, biases):
        for block, target in zip(tokens, log_p, strict=True):
            log_q = bench.model.network(input_ids=block[None]).logits[0].log_softmax(-1)
            kl = (target.exp() * (target - log_q)).sum(-1).mean()
            rows.append(torch.stack(torch.autograd.grad(kl, biases.parameters())))
    return torch.stack(rows)


def test_gradient_importance_is_the_norm_of_autograds_own(tiny_bench, tiny_trial):
    importance = by_gradient(tiny_bench, tiny_trial.plan, DOWN, n_blocks=6)
    expected = plain_gradients(tiny_bench, tiny_trial.plan, 6).mean(0).norm(dim=1)
    np.testing.assert_allclose(importance.value, expected.tolist(), rtol=1e-3)
    tiny_bench.model.check_dense()


def test_the_gradient_of_a_group_is_that_of_its_sites_together(tiny_bench, tiny_trial):
    alone = by_gradient(tiny_bench, tiny_trial.plan, DOWN)
    (together,) = by_gradient(tiny_bench, tiny_trial.plan, [DOWN[0] | DOWN[1]]).value
    assert together == pytest.approx(math.hypot(*alone.value), rel=1e-5)


def test_the_standard_error_of_a_norm_is_that_of_a_mean_along_it(tiny_bench, tiny_trial):
    importance = by_gradient(tiny_bench, tiny_trial.plan, DOWN)
    gradients = plain_gradients(tiny_bench, tiny_trial.plan, None)
    mean = gradients.mean(0)
    along = (gradients * mean / mean.norm(dim=1, keepdim=True)).sum(-1)  # (blocks, site)
    expected = along.std(0) / math.sqrt(len(along))
    np.testing.assert_allclose(importance.standard_error, expected.tolist(), rtol=0.1)


def test_one_block_has_no_standard_error(tiny_bench, tiny_trial):
    with pytest.raises(SponError, match="at least 2 blocks, but got 1"):
        by_gradient(tiny_bench, tiny_trial.plan, DOWN, n_blocks=1)


def test_an_importance_is_frozen():
    with pytest.raises(AttributeError):
        Importance((), (), ()).value = (1.0,)


def test_a_gain_is_what_a_small_share_of_the_bias_takes_off_the_kl(tiny_bench, tiny_trial):
    plan, small = tiny_trial.plan, 1e-3
    generator = torch.Generator().manual_seed(0)
    biases = {Site(layer, "down_proj"): 0.1 * torch.randn(32, generator=generator) for layer in (1, 0)}
    found = by_gain(tiny_bench, plan, biases)
    assert found.players == tuple(DOWN)
    blocks, teacher = tiny_bench.blocks("calibration"), tiny_bench.teacher("calibration")

    def kl(scaled):
        given = SponBiases(tiny_bench.model, tuple(scaled), "output_bias")
        given.load(scaled)
        with sparsified(tiny_bench.model, plan, {}, given):
            return token_scores(tiny_bench.model, blocks, teacher)[1].double().mean().item()

    for player, gain, error in zip(found.players, found.value, found.standard_error, strict=True):
        (site,) = player
        measured = (kl({site: -small * biases[site]}) - kl({site: small * biases[site]})) / (2 * small)
        assert gain == pytest.approx(measured, rel=0.05, abs=1e-4)
        assert error > 0
