"""Do biases bring hidden states back to the dense model's, or move them further away?

A shift is |h - h_dense| / |h_dense|, mean over tokens, and recovery is the share of TEAL's shift that is undone. Both
are relative, so that a few tokens or layers with long states do not dominate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import Units, ratio
from analysis.subject import Mode, States, Subject, states_of
from trainables.statistics import Array, Interval

NAME = "shift"
_SPARSE: tuple[Mode, ...] = ("teal", "spon", "random", "weighted")
_NULLS: dict[Mode, str] = {"random": "random vectors", "weighted": "W times random vectors"}


@dataclass(frozen=True)
class Shift:
    """Relative distance from the dense model at one place.

    Attributes:
        by_block: mean over a block's tokens, (blocks,).
        by_position: mean over blocks, (seq,).
    """

    by_block: Array
    by_position: Array


def shift_of(states: Tensor, dense: Tensor) -> Shift:
    """Compute relative distances of states (blocks, seq, width) from the dense ones."""
    relative = (states.double() - dense.double()).norm(dim=-1) / dense.double().norm(dim=-1)
    return Shift(relative.mean(dim=1).numpy(), relative.mean(dim=0).numpy())


def recovery(teal: Array, other: Array, units: Units | None = None) -> Interval:
    """Return the share of TEAL's shift that is undone, 1 - other / teal over blocks; negative means further away."""
    return ratio(teal - other, teal, units=units)


def find(subject: Subject) -> Finding:
    """Measure recovery at the outputs of biased sites and in the residual stream after every layer."""
    places = _measure(subject)
    units = subject.units
    rows = [_row(place, shifts, units) for place, shifts in places.items()]
    residual = [shifts for place, shifts in places.items() if place.startswith("after layer")]
    outputs = [shifts for place, shifts in places.items() if not place.startswith("after layer")]
    compared = (("site outputs", outputs), ("residual stream", residual), ("last layer", residual[-1:]))
    effects = tuple(effect for label, of in compared for effect in _effects(label, of, units))
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
        rows=tuple(rows),
    )


def _measure(subject: Subject) -> dict[str, dict[Mode, Shift]]:
    """Measure shifts by place and mode."""
    parts: dict[str, dict[Mode, list[Shift]]] = {}
    text = subject.blocks.tokens
    for rows in subject.model.batches(text):
        states: dict[Mode, dict[str, Tensor]] = {}
        for mode in ("dense", *_SPARSE):
            with subject.mode(mode):
                states[mode] = _places(states_of(subject.model, text[rows], subject.sites))
        for place, dense in states["dense"].items():
            for mode in _SPARSE:
                parts.setdefault(place, {}).setdefault(mode, []).append(shift_of(states[mode][place], dense))
    return {place: {mode: _join(shifts) for mode, shifts in by.items()} for place, by in parts.items()}


def _places(states: States) -> dict[str, Tensor]:
    """Return states by place."""
    outputs = {str(site): output for site, output in states.outputs.items()}
    return outputs | {f"after layer {layer}": stream for layer, stream in states.residual.items()}


def _join(shifts: list[Shift]) -> Shift:
    weights = [len(shift.by_block) for shift in shifts]
    by_position: NDArray[np.float64] = np.average([shift.by_position for shift in shifts], axis=0, weights=weights)
    return Shift(np.concatenate([shift.by_block for shift in shifts]), by_position)


_RECOVERIES: dict[str, Mode] = {"recovery": "spon", "random_recovery": "random", "weighted_recovery": "weighted"}


def _row(place: str, shifts: dict[Mode, Shift], units: Units) -> Row:
    row: Row = {"place": place}
    for mode in _SPARSE:
        row[f"{mode}_relative"] = float(shifts[mode].by_block.mean())
    for name, mode in _RECOVERIES.items():
        row |= cells(name, recovery(shifts["teal"].by_block, shifts[mode].by_block, units))
    thirds = {mode: np.array_split(shifts[mode].by_position, 3) for mode in _SPARSE}
    for third, label in enumerate(("first", "middle", "last")):
        teal = thirds["teal"][third].mean()
        row[f"recovery_{label}_third"] = float(1 - thirds["spon"][third].mean() / teal) if teal else None
    return row


def _effects(label: str, places: list[dict[Mode, Shift]], units: Units) -> list[Effect]:
    """Compute recovery of the shift summed over places. Places of a block stay together: they are not independent."""
    total = {mode: np.sum([shifts[mode].by_block for shifts in places], axis=0) for mode in _SPARSE}
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
