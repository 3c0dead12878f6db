"""Do biases bring hidden states back to the dense model's, or move them further away?

A shift is |h - h_dense| / |h_dense|, mean over tokens, and recovery is the share of TEAL's shift that is undone. Both
are relative, so that a few tokens or layers with long states do not dominate.
"""

import numpy as np
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import Units, ratio
from analysis.subject import Mode, Subject, states_of
from trainables.statistics import Array, Interval

NAME = "shift"
_SPARSE: tuple[Mode, ...] = ("teal", "spon", "random", "weighted")
_NULLS: dict[Mode, str] = {"random": "random vectors", "weighted": "W times random vectors"}

Shifts = dict[Mode, Array]
"""Relative distance from the dense model at one place, mean over a block's tokens, (blocks,)."""


def shift_of(states: Tensor, dense: Tensor) -> Array:
    """Compute relative distances of states (blocks, seq, width) from the dense ones, mean over tokens, (blocks,)."""
    relative: Tensor = (states.double() - dense.double()).norm(dim=-1) / dense.double().norm(dim=-1)
    return relative.mean(dim=1).numpy()


def recovery(teal: Array, other: Array, units: Units | None = None) -> Interval:
    """Return the share of TEAL's shift that is undone, 1 - other / teal over blocks; negative means further away."""
    return ratio(teal - other, teal, units=units)


def find(subject: Subject) -> Finding:
    """Measure recovery at the outputs of biased sites and in the residual stream after every layer."""
    places, units = _measure(subject), subject.units
    rows = tuple(_row(place, shifts, units) for place, shifts in places.items())
    shifts = list(places.values())
    outputs, residual = shifts[: len(subject.sites)], shifts[len(subject.sites) :]
    compared = {"site outputs": outputs, "residual stream": residual, "last layer": residual[-1:]}
    effects = tuple(effect for label, of in compared.items() for effect in _effects(label, of, units))
    return Finding(
        analysis=NAME,
        title="Hidden-state shift",
        question="How much of the distance between the dense and the sparse model's hidden states do the biases "
        "recover, layer by layer?",
        null="One random vector of the same norm at each site, and W times one, whose direction is like that of the "
        "site's outputs. Any vector moves a state, most of them further away. Shifts are relative, "
        "|h - h_dense| / |h_dense|, without the first token of each block. Intervals are jackknives over documents.",
        effects=effects,
        verdict=_verdict(effects),
        rows=rows,
    )


def _measure(subject: Subject) -> dict[str, Shifts]:
    """Measure shifts by place, at the outputs of all sites first."""
    parts: dict[str, dict[Mode, list[Array]]] = {}
    text = subject.blocks.tokens
    for rows in subject.model.batches(text):
        dense = _places(subject, text[rows], "dense")
        for mode in _SPARSE:
            for place, states in _places(subject, text[rows], mode).items():
                parts.setdefault(place, {}).setdefault(mode, []).append(shift_of(states, dense[place]))
    return {place: {mode: np.concatenate(shifts) for mode, shifts in by.items()} for place, by in parts.items()}


def _places(subject: Subject, tokens: Tensor, mode: Mode) -> dict[str, Tensor]:
    """Return states by place, in one mode."""
    with subject.mode(mode):
        states = states_of(subject.model, tokens, subject.sites)
    outputs = {str(site): output for site, output in states.outputs.items()}
    return outputs | {f"after layer {layer}": stream for layer, stream in states.residual.items()}


_RECOVERIES: dict[str, Mode] = {"recovery": "spon", "random_recovery": "random", "weighted_recovery": "weighted"}


def _row(place: str, shifts: Shifts, units: Units) -> Row:
    row: Row = {"place": place}
    row |= {f"{mode}_relative": float(shift.mean()) for mode, shift in shifts.items()}
    for name, mode in _RECOVERIES.items():
        row |= cells(name, recovery(shifts["teal"], shifts[mode], units))
    return row


def _effects(label: str, places: list[Shifts], units: Units) -> list[Effect]:
    """Compute recovery of the shift summed over places. Places of a block stay together: they are not independent."""
    total = {mode: np.sum([shifts[mode] for shifts in places], axis=0) for mode in _SPARSE}
    teal, spon = total["teal"], total["spon"]
    figures = {"biases": recovery(teal, spon, units)}
    for mode, name in _NULLS.items():
        figures[name] = recovery(teal, total[mode], units)
        figures[f"biases beyond {name}"] = ratio(total[mode] - spon, teal, units=units)
    return [Effect.of(f"{label}, {name}", figure, "fraction of TEAL's shift") for name, figure in figures.items()]


_WAYS = {1: "nearer to the dense model", -1: "further from the dense model", 0: "not clearly nearer or further"}
_THAN = {1: "nearer than with", -1: "further than with", 0: "not clearly different from"}


def _verdict(effects: tuple[Effect, ...]) -> str:
    words = []
    for real, *beyond in zip(effects[::5], effects[2::5], effects[4::5], strict=True):
        way = _WAYS[real.sign]
        random, weighted = (_THAN[effect.sign] for effect in beyond)
        beside = f"{random} random vectors" + (f", {weighted} W times random vectors" if random != weighted else "")
        words.append(f"{real.label.removesuffix(', biases')}: {way}, {beside}")
    return "; ".join(words)
