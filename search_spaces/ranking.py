"""Chooses the layers that get a bias by the importance of layers."""

import math
from collections.abc import Mapping

import numpy as np

from search_spaces.errors import SponError


def _ranked(scores: Mapping[int, float], rule: str) -> list[int]:
    """Layers by descending score. Ties go to the earlier layer."""
    wrong = next((layer for layer, score in scores.items() if not math.isfinite(score)), None)
    if wrong is not None:
        raise SponError(f"a score must be finite, but layer {wrong} has {scores[wrong]} (at {rule})")
    return sorted(scores, key=lambda layer: (-scores[layer], layer))


def top_k(scores: Mapping[int, float], k: int) -> tuple[int, ...]:
    """The ``k`` layers with the largest scores, in ascending order. Raises ``SponError`` if a score is not finite."""
    return tuple(sorted(_ranked(scores, "top_k")[:k]))


def above_threshold(scores: Mapping[int, float], threshold: float) -> tuple[int, ...]:
    """The layers with a score above ``threshold``, in ascending order.

    Raises:
        SponError: if there is none, or a score is not finite.
    """
    first, *_ = _ranked(scores, "above_threshold")
    if scores[first] <= threshold:
        most = f"{scores[first]:.6g} (layer {first})"
        raise SponError(f"a score must be > {threshold}, but the largest is {most} (at above_threshold)")
    return tuple(sorted(layer for layer, score in scores.items() if score > threshold))


def elbow(scores: Mapping[int, float]) -> tuple[int, ...]:
    """The layers before the bend of the sorted scores, in ascending order.

    The bend is the point of the curve farthest from its chord. Below the chord, the curve has already fallen, and the
    point is the first one left out. Above the chord, the curve is about to fall, and the point is the last one taken.

    Raises:
        SponError: if the curve has no bend, or a score is not finite.
    """
    ranked = _ranked(scores, "elbow")
    curve = np.array([scores[layer] for layer in ranked])
    # Vertical distances suffice, because the distance to a line is a constant times the vertical one.
    above = curve - (curve[0] + (curve[-1] - curve[0]) * np.arange(len(curve)) / max(1, len(curve) - 1))
    bend = int(np.abs(above).argmax())
    if abs(above[bend]) <= 1e-9 * np.abs(curve).max():
        raise SponError(f"scores must bend for an elbow, but {len(curve)} of them lie on a line (at elbow)")
    return tuple(sorted(ranked[: bend + int(above[bend] > 0)]))
