"""Do sparsity and biases shift some kinds of text more than others?"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import between_groups, jackknife, mean, null_range, p_value, permuted_groups
from analysis.subject import Mode, Subject, states_of
from search_spaces.errors import SponError
from trainables.statistics import Array, Interval

NAME = "categories"
_COMPARED: dict[Mode, str] = {"teal": "TEAL", "spon": "biases"}
_LEVEL = 0.05
_MARGIN = 0.1
"""Share of the variance that counts as negligible."""
_ROUNDING = 1e-12
"""Relative to squared lengths. Smaller variation counts as none."""
_FEWEST = 4  # least tokens for unbiased HSIC

Residuals = list[Tensor]
"""For each prompt, the residual stream after every layer, (layers, tokens, hidden)."""
Moved = tuple[Array, Array]
"""Distance of prompts from the dense model, |h - h_dense| and the same over |h_dense|, each a mean over the tokens of a
prompt, (prompts, layers)."""


@dataclass(frozen=True)
class Contrast:
    """Tests for a difference between categories.

    Attributes:
        between: share of the prompts' variance that lies between categories.
        null: middle 95% of that share under shuffled labels.
        p: of the share.
        p_length: the same after the log of prompt length is regressed out of both the figure and the categories.
        p_no_more: of an equivalence test, whose null is that categories explain a tenth or more of what lengths leave.
    """

    between: float
    null: tuple[float, float]
    p: float
    p_length: float
    p_no_more: float


def contrast(values: Array, categories: NDArray[np.int64], lengths: Array) -> Contrast:
    """Run permutation tests over category labels. Arguments are a figure, category and length of each prompt."""
    constant = np.ones((len(values), 1))
    length = np.column_stack([constant, np.log(lengths)])
    observed = float(between_groups(values, categories, constant))
    drawn = permuted_groups(values, categories, constant)
    beyond = float(between_groups(values, categories, length))
    p_length = p_value(beyond, permuted_groups(values, categories, length))
    return Contrast(
        observed, null_range(drawn), p_value(observed, drawn), p_length, no_more_than(beyond, categories, length)
    )


def no_more_than(share: float, groups: NDArray[np.int64], given: Array) -> float:
    """Return the p value of an equivalence test: the chance of so small a share if the true one is ``_MARGIN``.

    The share cannot be below zero, so only the upper of the two one-sided tests is needed (Wellek's F test). The p
    value is zero for a single group, which explains nothing, and one if there are too few units.

    Args:
        share: of ``between_groups`` for the same groups and ``given``.
        groups: label of each unit, (units,).
        given: features regressed out first, (units, features), with a constant.
    """
    from scipy.stats import ncf  # type: ignore[import-untyped]  # a second to import

    n = len(groups)
    between = len(np.unique(groups)) - 1
    within = n - between - given.shape[1]
    if between < 1 or within < 1:
        return float(between >= 1)
    f = share / between / max(1 - share, 1e-12) * within
    return float(ncf.cdf(f, between, within, n * _MARGIN / (1 - _MARGIN)))


def linear_cka(x: Tensor, y: Tensor, units: NDArray[np.int64]) -> Interval:
    """Compute linear CKA from the unbiased estimator of HSIC, with a jackknife interval over units.

    Tokens of one prompt are not independent, so whole prompts are left out as units. (Unbiased HSIC: Song et al., 2012,
    eq. 5; its use in CKA: Nguyen et al., 2021, arXiv:2010.15327.) The value is NaN if a state does not vary.

    Args:
        x: (tokens, width).
        y: (tokens, another width), of the same tokens.
        units: of each token, (tokens,).

    Raises:
        SponError: if fewer than four tokens remain without the longest unit.
    """
    of = (units[:, None] == np.unique(units)).astype(np.float64)
    if len(units) - of.sum(axis=0).max() < _FEWEST:
        raise SponError(f"CKA must have {_FEWEST} tokens beside any prompt's, but got {len(units)} in all (at {NAME})")
    k, m = (_gram(z) for z in (x, y))
    cross, *own = (_hsic(a, b, of) for a, b in ((k, m), (k, k), (m, m)))
    varies = [hsic > _ROUNDING * np.square(gram).sum() for hsic, gram in zip(own, (k, m), strict=True)]
    some = varies[0] & varies[1]
    value, *left = np.where(some, cross / np.sqrt(np.where(some, own[0] * own[1], 1.0)), np.nan)
    value, low, high = jackknife(float(value), np.array(left))
    return Interval(value, low, min(1.0, high) if np.isfinite(high) else high)


def _gram(states: Tensor) -> Array:
    gram: Array = (states.double() @ states.double().T).numpy()
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: Array, m: Array, of: Array) -> Array:
    """Compute unbiased HSIC, up to the factor n (n - 3), from Gram matrices (tokens, tokens) with a zero diagonal.

    Sums run over the tokens that each unit leaves, so that no matrix is copied for each unit. The result is HSIC of all
    tokens and then without each unit, (1 + units,); ``of`` is 1 where a token belongs to a unit, (tokens, units).
    """
    none_and_each = np.hstack([np.zeros((len(of), 1)), of])
    kept = 1 - none_and_each
    product = k * m
    n = kept.sum(axis=0)
    k_sums, m_sums = (kept * (gram @ kept) for gram in (k, m))
    both = (kept * (product @ kept)).sum(axis=0)
    k_total, m_total = k_sums.sum(axis=0), m_sums.sum(axis=0)
    hsic: Array = both + k_total * m_total / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k_sums * m_sums).sum(axis=0)
    return hsic


def find(subject: Subject) -> Finding:
    """Measure shifts of the subject's prompts, token by token, in the residual stream after every layer."""

    def residuals(tokens: Tensor) -> Tensor:
        residual = states_of(subject.model, tokens, ()).residual
        return torch.stack([residual[layer] for layer in sorted(residual)], dim=1)

    states: dict[Mode, Residuals] = {mode: subject.by_prompt(mode, residuals) for mode in ("dense", *_COMPARED)}
    moved = {mode: _moved(states[mode], states["dense"]) for mode in _COMPARED}
    names = [prompt.category for prompt in subject.prompts]
    categories = np.unique(names, return_inverse=True)[1].astype(np.int64)
    lengths = np.array([len(prompt.tokens) for prompt in subject.prompts], dtype=np.float64)
    places = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)}
    layers = range(subject.model.shape.num_layers)
    rows = [_row(category, at, states, moved, layer) for category, at in places.items() for layer in layers]
    effects: list[Effect] = []
    verdicts = []
    figures = {name: moved[mode][1].mean(axis=1) for mode, name in _COMPARED.items()}
    figures["what the biases change"] = figures["biases"] - figures["TEAL"]
    for name, values in figures.items():
        tested = contrast(values, categories, lengths)
        effects += _contrast_effects(name, tested)
        verdicts.append(f"{name}: {_verdict(tested)}")
    effects += [
        Effect.of(f"{category}: relative shift, {name}", mean(figures[name][at]), "fraction")
        for category, at in places.items()
        for name in _COMPARED.values()
    ]
    return Finding(
        analysis=NAME,
        title="Shifts by category",
        question="Do TEAL and the biases move hidden states of some categories of prompts further than others?",
        null="Category labels shuffled among the prompts, and again after prompt length is regressed out. The verdict "
        "credits lengths with the whole difference only if categories clearly explain less than a tenth of the rest "
        "(an equivalence test). The first token of each prompt is left out. Intervals are jackknives over prompts, of "
        "each figure by itself.",
        effects=tuple(effects),
        verdict="; ".join(verdicts),
        rows=tuple(rows),
    )


def _moved(states: Residuals, dense: Residuals) -> Moved:
    absolute, relative = [], []
    for mine, theirs in zip(states, dense, strict=True):
        distance = (mine.double() - theirs.double()).norm(dim=-1)
        absolute.append(distance.mean(dim=1).numpy())
        relative.append((distance / theirs.double().norm(dim=-1)).mean(dim=1).numpy())
    return np.stack(absolute), np.stack(relative)


def _row(
    category: str, at: NDArray[np.int64], states: dict[Mode, Residuals], moved: dict[Mode, Moved], layer: int
) -> Row:
    row: Row = {"category": category, "layer": layer}
    units = np.repeat(at, [states["dense"][i].shape[1] for i in at])
    dense = torch.cat([states["dense"][i][layer] for i in at])
    for mode, (absolute, relative) in moved.items():
        cka = linear_cka(dense, torch.cat([states[mode][i][layer] for i in at]), units)
        row[f"{mode}_l2"] = float(absolute[at, layer].mean())
        row |= cells(f"{mode}_relative", mean(relative[at, layer])) | cells(f"{mode}_cka", cka)
    return row


def _contrast_effects(name: str, tested: Contrast) -> list[Effect]:
    label = f"{name}: variance of shifts between categories"
    return [
        Effect(label=label, value=tested.between, null=tested.null, unit="fraction"),
        Effect(label=f"{name}: p of that", value=tested.p),
        Effect(label=f"{name}: p of that, length taken out", value=tested.p_length),
        Effect(label=f"{name}: p of a tenth or more of the rest", value=tested.p_no_more),
    ]


def _verdict(tested: Contrast) -> str:
    if tested.p >= _LEVEL:
        return "no clear difference between categories"
    if tested.p_length < _LEVEL:
        return "categories differ, by more than their lengths explain"
    if tested.p_no_more < _LEVEL:
        return "categories differ, but no more than their lengths explain"
    return "categories differ; whether by more than their lengths explain is not clear"
