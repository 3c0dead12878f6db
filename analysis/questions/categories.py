"""Do sparsity and biases move some kinds of text further than others?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.finding import Effect, Finding, Row
from analysis.prompts import by_length
from analysis.resampling import between_groups, mean, null_range, p_value, permuted_groups
from analysis.subject import Mode, Subject, states_of
from trainables.statistics import Array, Interval

NAME = "categories"
_COMPARED: tuple[Mode, ...] = ("teal", "spon")
_SAID = {"teal": "TEAL", "spon": "biases"}
_Z = 1.96


@dataclass(frozen=True)
class Moved:
    """How far prompts moved from the dense model, each figure a mean over a prompt's tokens, (prompts, layers).

    Attributes:
        absolute: |h - h_dense|. relative: the same over |h_dense|.
    """

    absolute: Array
    relative: Array


@dataclass(frozen=True)
class Contrast:
    """Whether categories differ.

    Attributes:
        between: share of the prompts' variance that lies between categories.
        null: middle 95% of that share under shuffled labels.
        p: of the share.
        p_length: the same after the part that is linear in the log of a prompt's length is taken out.
    """

    between: float
    null: tuple[float, float]
    p: float
    p_length: float


def contrast(values: Array, categories: NDArray[np.int64], lengths: Array) -> Contrast:
    """Permutation test over category labels.

    Args:
        values: a figure of each prompt, (prompts,).
        categories: (prompts,).
        lengths: tokens of each, (prompts,).
    """
    observed, drawn = between_groups(values, categories), permuted_groups(values, categories)
    basis = np.stack([np.ones_like(lengths), np.log(lengths)], axis=1)
    rest = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    p_length = p_value(between_groups(rest, categories), permuted_groups(rest, categories))
    return Contrast(observed, null_range(drawn), p_value(observed, drawn), p_length)


def linear_cka(x: Tensor, y: Tensor, units: NDArray[np.int64]) -> Interval:
    """Linear CKA from the unbiased estimator of HSIC, with a jackknife interval over units.

    Tokens of one prompt are not independent: a unit, a prompt, is left out whole. (Unbiased HSIC: Song et al., 2012,
    eq. 5; its use in CKA: Nguyen et al., 2021, arXiv:2010.15327.)

    Args:
        x: (tokens, width).
        y: (tokens, width of its own), of the same tokens.
        units: of each token, (tokens,).
    """
    grams = [(z.double() @ z.double().T).numpy() for z in (x, y)]
    for gram in grams:
        np.fill_diagonal(gram, 0.0)
    value = _cka(*grams)
    kept = [np.flatnonzero(units != unit) for unit in np.unique(units)]
    left = np.array([_cka(*(gram[np.ix_(keep, keep)] for gram in grams)) for keep in kept])
    error = np.sqrt((len(left) - 1) * left.var()) * _Z
    return Interval(value, value - float(error), min(1.0, value + float(error)))


def _cka(k: Array, m: Array) -> float:
    return float(_hsic(k, m) / np.sqrt(_hsic(k, k) * _hsic(m, m)))


def _hsic(k: Array, m: Array) -> float:
    """Unbiased HSIC, up to the factor n (n - 3), from Gram matrices with a zero diagonal."""
    n = len(k)
    k_sums, m_sums = k.sum(axis=0), m.sum(axis=0)
    return float((k * m).sum() + k_sums.sum() * m_sums.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k_sums @ m_sums))


def find(subject: Subject) -> Finding:
    """Ask it of the subject's prompts, token by token, in the residual stream after every layer."""
    states = {mode: _residuals(subject, mode) for mode in ("dense", *_COMPARED)}
    moved = {mode: _moved(states[mode], states["dense"]) for mode in _COMPARED}
    names = [prompt.category for prompt in subject.prompts]
    categories = np.unique(names, return_inverse=True)[1].astype(np.int64)
    lengths = np.array([len(prompt.tokens) for prompt in subject.prompts], dtype=np.float64)
    rows: list[Row] = []
    for category in dict.fromkeys(names):
        at = np.flatnonzero(np.array(names) == category)
        rows += [_row(category, at, states, moved, layer) for layer in range(subject.model.shape.num_layers)]
    effects: list[Effect] = []
    verdicts = []
    figures = {_SAID[mode]: moved[mode].relative.mean(axis=1) for mode in _COMPARED}
    figures["what the biases change"] = figures["biases"] - figures["TEAL"]
    for name, values in figures.items():
        tested = contrast(values, categories, lengths)
        effects += _contrast_effects(name, tested)
        verdicts.append(f"{name}: {_verdict(tested)}")
    for category in dict.fromkeys(names):
        at = np.flatnonzero(np.array(names) == category)
        effects += [
            Effect.of(f"{category}: relative shift, {name}", mean(figures[name][at]), "fraction")
            for name in ("TEAL", "biases")
        ]
    return Finding(
        analysis=NAME,
        title="Shifts by category",
        question="Do TEAL and the biases move hidden states of some categories of prompts further than others?",
        null="Category labels shuffled among the prompts; once more after the part that a prompt's length explains is "
        "taken out. Intervals are bootstraps over prompts, those of CKA jackknives.",
        effects=tuple(effects),
        verdict="; ".join(verdicts),
        rows=tuple(rows),
    )


Residuals = list[Tensor]
"""Of each prompt, the stream after every layer, (layers, tokens, hidden)."""


def _residuals(subject: Subject, mode: Mode) -> Residuals:
    found: dict[int, Tensor] = {}
    with subject.mode(mode):
        for places, tokens in by_length(subject.prompts):
            residual = states_of(subject.model, tokens, ()).residual
            streams = torch.stack([residual[layer] for layer in sorted(residual)], dim=1)
            found |= dict(zip(places, streams, strict=True))
    return [found[place] for place in range(len(subject.prompts))]


def _moved(states: Residuals, dense: Residuals) -> Moved:
    absolute, relative = [], []
    for mine, theirs in zip(states, dense, strict=True):
        distance = (mine.double() - theirs.double()).norm(dim=-1)
        absolute.append(distance.mean(dim=1).numpy())
        relative.append((distance / theirs.double().norm(dim=-1)).mean(dim=1).numpy())
    return Moved(np.stack(absolute), np.stack(relative))


def _row(
    category: str, at: NDArray[np.int64], states: dict[Mode, Residuals], moved: dict[Mode, Moved], layer: int
) -> Row:
    row: Row = {"category": category, "layer": layer}
    units = np.repeat(at, [states["dense"][i].shape[1] for i in at])
    dense = _tokens(states["dense"], at, layer)
    for mode in _COMPARED:
        cka = linear_cka(dense, _tokens(states[mode], at, layer), units)
        relative = mean(moved[mode].relative[at, layer], resamples=500)
        row |= {
            f"{mode}_l2": float(moved[mode].absolute[at, layer].mean()),
            f"{mode}_relative": relative.value,
            f"{mode}_relative_low": relative.low,
            f"{mode}_relative_high": relative.high,
            f"{mode}_cka": cka.value,
            f"{mode}_cka_low": cka.low,
            f"{mode}_cka_high": cka.high,
        }
    return row


def _tokens(states: Residuals, at: Sequence[int] | NDArray[np.int64], layer: int) -> Tensor:
    return torch.cat([states[i][layer] for i in at])


def _contrast_effects(name: str, tested: Contrast) -> list[Effect]:
    return [
        Effect(
            label=f"{name}: variance of shifts between categories",
            value=tested.between,
            null=tested.null,
            unit="fraction",
        ),
        Effect(label=f"{name}: p of that", value=tested.p),
        Effect(label=f"{name}: p of that, length taken out", value=tested.p_length),
    ]


def _verdict(tested: Contrast, level: float = 0.05) -> str:
    if tested.p >= level:
        return "no sure difference between categories"
    if tested.p_length >= level:
        return "categories differ, but no more than their lengths explain"
    return "categories differ"
