"""Chooses the layers that get a bias by the importance of layers."""

import math
from collections.abc import Mapping

from search_spaces.errors import SponError


def _ranked(scores: Mapping[int, float], rule: str) -> list[int]:
    """Layers by descending score. Ties go to the earlier layer."""
    wrong = next((layer for layer, score in scores.items() if not math.isfinite(score)), None)
    if wrong is not None:
        raise SponError(f"a score must be finite, but layer {wrong} has {scores[wrong]} (at {rule})")
    if not scores:
        raise SponError(f"there must be a layer to choose from, but got no scores (at {rule})")
    return sorted(scores, key=lambda layer: (-scores[layer], layer))


def top_k(scores: Mapping[int, float], k: int) -> tuple[int, ...]:
    """The ``k`` layers with the largest scores, in ascending order.

    Raises:
        SponError: if k is out of range, or a score is not finite.
    """
    ranked = _ranked(scores, "top_k")
    if not 1 <= k <= len(ranked):
        raise SponError(f"k must be in 1..{len(ranked)} layers, but got {k} (at top_k)")
    return tuple(sorted(ranked[:k]))


def above_threshold(scores: Mapping[int, float], threshold: float) -> tuple[int, ...]:
    """The layers with a score above ``threshold``, in ascending order.

    Raises:
        SponError: if there is none, or a score is not finite.
    """
    ranked = _ranked(scores, "above_threshold")
    chosen = tuple(sorted(layer for layer in ranked if scores[layer] > threshold))
    if not chosen:
        most = f"{scores[ranked[0]]:.6g} (layer {ranked[0]})"
        raise SponError(f"a score must be > {threshold}, but the largest is {most} (at above_threshold)")
    return chosen


def elbow(scores: Mapping[int, float]) -> tuple[int, ...]:
    """The layers before the bend of the sorted scores, in ascending order.

    The bend is the point of the curve farthest from its chord. Below the chord, the curve has already fallen, and the
    point is the first one left out. Above the chord, the curve is about to fall, and the point is the last one taken.

    Raises:
        SponError: if the curve has no bend, or a score is not finite.
    """
    ranked = _ranked(scores, "elbow")
    curve = [scores[layer] for layer in ranked]
    # Vertical distances suffice, because the distance to a line is a constant times the vertical one.
    chord = [curve[0] + (curve[-1] - curve[0]) * place / max(1, len(curve) - 1) for place in range(len(curve))]
    above = [value - line for value, line in zip(curve, chord, strict=True)]
    bend = max(range(len(curve)), key=lambda place: abs(above[place]))
    if abs(above[bend]) <= 1e-9 * max(abs(value) for value in curve):
        raise SponError(f"scores must bend for an elbow, but {len(curve)} of them lie on a line (at elbow)")
    return tuple(sorted(ranked[: bend + (above[bend] > 0)]))
