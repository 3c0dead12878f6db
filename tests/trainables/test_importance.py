"""Importance of players: by hand, on games whose Shapley values are known, and against autograd."""

import itertools
import math

import numpy as np
import pytest
import torch

from search_spaces.sites import Site
from trainables.evaluation import token_scores
from trainables.importance import by_gain, by_gradient, leave_one_out, shapley
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


@pytest.mark.parametrize("score", [additive, pairwise, saturating])
def test_shapley_values_sum_to_what_all_players_take_off(score):
    importance = shapley(score, PLAYERS, pairs=3, seed=1)
    everyone = frozenset().union(*PLAYERS)
    assert sum(importance.value) == pytest.approx(score(frozenset()) - score(everyone), abs=1e-12)


def test_an_order_and_its_reverse_cancel_pairwise_interactions():
    importance = shapley(pairwise, PLAYERS, pairs=2, seed=0)
    np.testing.assert_allclose(importance.value, exact_shapley(pairwise), atol=1e-12)


def test_the_standard_error_is_how_far_estimates_are_off():
    runs = [shapley(saturating, PLAYERS, pairs=20, seed=seed) for seed in range(60)]
    off = np.array([run.value for run in runs]) - exact_shapley(saturating)
    claimed = np.mean([run.standard_error for run in runs], axis=0)
    assert np.abs(off.mean(axis=0)).max() < 4 * claimed.max() / math.sqrt(60)
    np.testing.assert_allclose(np.sqrt((off**2).mean(axis=0)), claimed, rtol=0.35)


def plain_gradients(bench, plan):
    """Gradient of the KL at zero biases on each calibration block, from full logits: (blocks, site, width)."""
    tokens = bench.blocks("calibration").tokens
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
    gradients = plain_gradients(tiny_bench, tiny_trial.plan)
    first = by_gradient(tiny_bench, tiny_trial.plan, DOWN, 6, "output_bias")
    np.testing.assert_allclose(first.value, gradients[:6].mean(0).norm(dim=1).tolist(), rtol=1e-3)
    alone = by_gradient(tiny_bench, tiny_trial.plan, DOWN, 16, "output_bias")
    (together,) = by_gradient(tiny_bench, tiny_trial.plan, [DOWN[0] | DOWN[1]], 16, "output_bias").value
    assert together == pytest.approx(math.hypot(*alone.value), rel=1e-5)
    mean = gradients.mean(0)  # the standard error is that of a mean along it
    along = (gradients * mean / mean.norm(dim=1, keepdim=True)).sum(-1)  # (blocks, site)
    np.testing.assert_allclose(alone.standard_error, (along.std(0) / math.sqrt(len(along))).tolist(), rtol=0.1)


def test_a_gain_is_what_a_small_share_of_the_bias_takes_off_the_kl(tiny_bench, tiny_trial):
    plan, small = tiny_trial.plan, 1e-3
    generator = torch.Generator().manual_seed(0)
    biases = {Site(layer, "down_proj"): 0.1 * torch.randn(32, generator=generator) for layer in (1, 0)}
    found = by_gain(tiny_bench, plan, biases, 16)
    assert found.players == tuple(DOWN)
    blocks, teacher = tiny_bench.blocks("calibration"), tiny_bench.teacher("calibration")

    def kl(scaled):
        with sparsified(tiny_bench.model, plan, {}, SponBiases.of(tiny_bench.model, scaled, "output_bias")):
            return token_scores(tiny_bench.model, blocks, teacher)[1].double().mean().item()

    for player, gain, error in zip(found.players, found.value, found.standard_error, strict=True):
        (site,) = player
        measured = (kl({site: -small * biases[site]}) - kl({site: small * biases[site]})) / (2 * small)
        assert gain == pytest.approx(measured, rel=0.05, abs=1e-4)
        assert error > 0
