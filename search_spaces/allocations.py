"""Named allocations: which sites carry a SPON bias.

The names are the seed study's (``configs/allocation_configs.yaml`` there), by fraction of the depth, so that they fit
any model. MIDDLE, ALTERNATING and RANDOM are controls. To add one, add a function to ``_FAMILIES``. The allocations of
``MEASURED`` rank layers or sites by a figure that a sweep measures first (``sweep.search.measure``).

Early layers are near the embedding, late layers near the output: TOP is early, BOTTOM is late.
"""

import random
import re
from collections.abc import Callable

from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Module

BASELINE = "BASELINE-TEAL"
MEASURED = {
    "GRADIENT": "the gradient of the KL at zero biases",
    "CORNERSTONE": "the KL without the layer's bias, with all others",
    "CRITICAL-ONLY": "the KL with the layer's bias alone, trained alone",
    "SHAPLEY-GUIDED": "the layer's Shapley value, over shared biases",
    "GAIN": "the first-order reduction of the KL by the site's own bias; this one ranks single sites",
}
"""Name -> figure that ranks layers. ``NAME-<percent>`` takes that share of them, ``NAME`` those before the elbow."""
MLP: tuple[Module, ...] = ("down_proj",)

# name -> (percent of the layers in TOP order, modules)
_FIXED: dict[str, tuple[int, tuple[Module, ...]]] = {
    BASELINE: (0, MLP),
    "UNIF-ALL": (100, MLP),
    "ATTN-ONLY": (100, ("o_proj",)),
    "HYBRID-OD": (100, ("o_proj", "down_proj")),
    "HYBRID-QD": (100, ("q_proj", "down_proj")),
    "ALL-SITES": (100, MODULES),
    "ADAPTIVE": (75, MLP),  # the study's name, which its code resolves to TOP-75: one trial
}
NAMES = (
    *_FIXED,
    *("TOP-<percent>", "BOTTOM-<percent>", "MIDDLE[-<percent>]", "ALTERNATING[-<percent>]", "RANDOM-<k>"),
    *(f"{name}[-<percent>]" for name in MEASURED),
)


def _share(percent: int, depth: int) -> int:
    """Number of layers in a share of the depth, rounded down, at least one (the study's rule)."""
    return max(1, depth * percent // 100)


def _top(percent: int, depth: int, seed: int) -> list[int]:
    return list(range(_share(percent, depth)))


def _bottom(percent: int, depth: int, seed: int) -> list[int]:
    return list(range(depth - _share(percent, depth), depth))


def _middle(percent: int, depth: int, seed: int) -> list[int]:
    first = (depth - _share(percent, depth)) // 2
    return list(range(first, first + _share(percent, depth)))


def _alternating(percent: int, depth: int, seed: int) -> list[int]:
    count = _share(percent, depth)
    return [i * depth // count for i in range(count)]


def _random(count: int, depth: int, seed: int) -> list[int]:
    if not 1 <= count <= depth:
        raise SponError(f"RANDOM-k must have 1 <= k <= {depth} for this model, but got RANDOM-{count} (at allocations)")
    return sorted(random.Random(seed).sample(range(depth), count))


_FAMILIES: dict[str, Callable[[int, int, int], list[int]]] = {
    "TOP": _top,
    "BOTTOM": _bottom,
    "MIDDLE": _middle,
    "ALTERNATING": _alternating,
    "RANDOM": _random,
}


def parse_allocation(name: str) -> tuple[str, int]:
    """Split a name into its family and number: ``TOP-50`` into TOP and 50, ``UNIF-ALL`` into itself and its percent.

    Raises:
        ValueError: if the name is unknown or its percent out of range. The number of RANDOM is not checked, because its
            range depends on the depth.
    """
    if name in _FIXED:
        return name, _FIXED[name][0]
    if measured := measured_name(name):
        return measured
    match = re.fullmatch(r"([A-Z]+)(?:-([0-9]+))?", name)
    if not match or match[1] not in _FAMILIES or (match[2] is None and match[1] not in ("MIDDLE", "ALTERNATING")):
        raise ValueError(f"an allocation must be one of {', '.join(NAMES)}, but got {name!r}")
    family, number = match[1], int(match[2] or 50)
    most = {"ALTERNATING": 50}.get(family, 100)  # above a half, some layers would be neighbours
    if family != "RANDOM" and not 1 <= number <= most:
        raise ValueError(f"{family}-p must have 1 <= p <= {most} percent, but got {name!r}")
    return family, number


def measured_name(name: str) -> tuple[str, int] | None:
    """The method and percent of an allocation of ``MEASURED``, with percent 0 for the elbow. None for other names.

    Raises:
        ValueError: if its percent is out of range.
    """
    method = next((method for method in MEASURED if re.fullmatch(method + "(-[0-9]+)?", name)), None)
    if method is None:
        return None
    percent = int(name.removeprefix(method)[1:] or 0)
    if name != method and not 1 <= percent <= 100:
        raise ValueError(f"{method}-p must have 1 <= p <= 100 percent, but got {name!r}")
    return method, percent


def is_named(name: str) -> bool:
    """Whether a name belongs to the named allocations."""
    try:
        parse_allocation(name)
    except ValueError:
        return False
    return True


def named_allocation(name: str, depth: int, seed: int = 0) -> tuple[list[int], tuple[Module, ...]]:
    """Ascending layer indices of a named allocation in a model of the given depth, and its module types.

    The seed is that of the draw for RANDOM.

    Raises:
        SponError: if the name is unknown or its number is out of range.
    """
    try:
        family, number = parse_allocation(name)
    except ValueError as error:
        raise SponError(f"{error} (at allocations)") from error
    if family in MEASURED:
        raise SponError(f"{name} must be measured first, which `python -m sweep run` does (at allocations)")
    if family in _FIXED:
        return (_top(number, depth, seed) if number else []), _FIXED[family][1]
    return _FAMILIES[family](number, depth, seed), MLP
