"""How much each group of sites matters: leave-one-out, Monte-Carlo Shapley values, gradients and gains at zero biases.

A player is a group of sites that is switched on or off as one, such as a layer. Players share no site. ``score`` gives
any mask a figure, such as its KL, and lower is better. An importance is how much a player lowers it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.sites import Site, site_order
from search_spaces.trial import TrialPlan
from trainables.activity import track
from trainables.loss import linear_kl
from trainables.proxy import some_blocks
from trainables.sparse import sparsified
from trainables.spon import Form, SponBiases
from trainables.statistics import Array
from trainables.workbench import Workbench

Player = frozenset[Site]
Score = Callable[[frozenset[Site]], float]


@dataclass(frozen=True)
class Importance:
    """One figure per player; higher is more important.

    Attributes:
        players: in the order they were given.
        value: in the unit of the score.
        standard_error: of the value, from sampling; zero where nothing is sampled.
    """

    players: tuple[Player, ...]
    value: tuple[float, ...]
    standard_error: tuple[float, ...]


def leave_one_out(score: Score, players: Sequence[Player]) -> Importance:
    """score(all but a player) - score(all), for each player. It costs one score per player, and one more."""
    everyone = frozenset[Site]().union(*players)
    full = score(everyone)
    value = tuple(score(everyone - player) - full for player in players)
    return Importance(tuple(players), value, (0.0,) * len(players))


def shapley(score: Score, players: Sequence[Player], pairs: int, seed: int) -> Importance:
    """Shapley values: how much a player lowers the score when it joins, averaged over random orders of joining.

    Each order is followed by its reverse, in which early players join late. This cancels all interactions of two
    players, so games without higher ones come out exact from any one pair. The values sum to score(none) - score(all)
    in each order, and so in the mean. It costs 2 x pairs x (players - 1) + 2 scores.

    The standard error is that of a mean of pairs of orders, of which there are at least two.
    """
    ends = score(frozenset()), score(frozenset[Site]().union(*players))
    rng = np.random.default_rng(seed)
    gains = np.empty((pairs, len(players)))
    for row in gains:
        order = rng.permutation(len(players))
        row[:] = (_gains(score, players, order, ends) + _gains(score, players, order[::-1], ends)) / 2
    error = gains.std(axis=0, ddof=1) / math.sqrt(pairs)
    return Importance(tuple(players), tuple(gains.mean(axis=0).tolist()), tuple(error.tolist()))


def _gains(
    score: Score,
    players: Sequence[Player],
    order: np.ndarray[tuple[int], np.dtype[np.int64]],
    ends: tuple[float, float],
) -> Array:
    """How much each player lowers the score when it joins in this order, from none to all: (players,)."""
    mask: frozenset[Site] = frozenset()
    scores = [ends[0]]
    for index in order[:-1]:
        mask |= players[index]
        scores.append(score(mask))
    gains = np.empty(len(players))
    gains[order] = -np.diff([*scores, ends[1]])
    return gains


def by_gradient(bench: Workbench, plan: TrialPlan, groups: Sequence[Player], n_blocks: int, form: Form) -> Importance:
    """Norm of dKL/db at b = 0 of each group, in nats per unit of bias: the KL that its first small step gains.

    b joins the biases of a group, and KL is the mean over tokens of the sparse model on the first ``n_blocks``
    calibration blocks, at least two. The standard error is a jackknife over blocks. Noise only ever lengthens a vector,
    so a norm near its error means nothing.

    Raises:
        SponError: if there are fewer blocks.
    """
    sites = tuple(sorted(frozenset[Site]().union(*groups), key=site_order))
    gradients = _block_gradients(bench, plan, SponBiases(bench.model, sites, form), n_blocks)
    joined = [np.concatenate([gradients[site] for site in sites if site in group], axis=1) for group in groups]
    value = tuple(float(np.linalg.norm(rows.mean(axis=0))) for rows in joined)
    return Importance(tuple(groups), value, tuple(_jackknife_error_of_norm(rows) for rows in joined))


def by_gain(
    bench: Workbench,
    plan: TrialPlan,
    biases: Mapping[Site, Tensor],
    n_blocks: int,
    form: Form = "output_bias",
) -> Importance:
    """First-order gain of each site's bias, -dKL/db . b in nats, at the sparse model without biases.

    Where biases were trained at all sites together, the half of the sites that ranks highest does what all do. The
    standard error is that of a mean over the first ``n_blocks`` calibration blocks, at least two. The biases must have
    been trained under the plan.

    Raises:
        SponError: if there are fewer blocks.
    """
    sites = tuple(sorted(biases, key=site_order))
    gradients = _block_gradients(bench, plan, SponBiases(bench.model, sites, form), n_blocks)
    gains = np.stack([-(gradients[site] @ biases[site].double().cpu().numpy()) for site in sites])
    error = gains.std(axis=1, ddof=1) / math.sqrt(gains.shape[1])
    players = tuple(frozenset({site}) for site in sites)
    return Importance(players, tuple(gains.mean(axis=1).tolist()), tuple(error.tolist()))


def _block_gradients(bench: Workbench, plan: TrialPlan, biases: SponBiases, n_blocks: int) -> dict[Site, Array]:
    """Gradient dKL/db of each site on each block, (blocks, width) fp64."""
    blocks, teacher = some_blocks(bench, "calibration", slice(n_blocks))
    rows = []
    with sparsified(bench.model, plan, bench.thresholds(plan), biases):
        parts = list(zip(blocks.tokens, teacher.mean_row, teacher.entropy, strict=True))
        for tokens, mean_row, entropy in track(parts, "gradients of the layers", "block"):
            hidden = bench.model.hidden(tokens[None].to(bench.model.device))[0]
            loss = linear_kl(hidden, bench.model.head, mean_row, entropy)
            rows.append(torch.autograd.grad(loss, biases.parameters()))
    by_site = zip(*rows, strict=True)
    return {
        site: torch.stack(grads).double().cpu().numpy() for site, grads in zip(biases.vectors, by_site, strict=True)
    }


def _jackknife_error_of_norm(rows: Array) -> float:
    """Jackknife standard error of the norm of the mean row, for rows of shape (blocks, width)."""
    n = len(rows)
    norms = np.linalg.norm((rows.sum(axis=0) - rows) / (n - 1), axis=1)
    return math.sqrt((n - 1) / n * float(((norms - norms.mean()) ** 2).sum()))
