"""Named allocations: which sites carry a SPON bias.

The names are the seed study's (``configs/allocation_configs.yaml`` there), by fraction of the depth, so that they fit
any model. MIDDLE, ALTERNATING and RANDOM are controls. The allocations of ``MEASURED`` rank layers or sites by a figure
that a sweep measures first (``sweep.search.measure``).

Early layers are near the embedding, late layers near the output: TOP is early, BOTTOM is late.
"""

import random
from collections.abc import Iterable

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
_LARGEST = {"TOP": 100, "BOTTOM": 100, "MIDDLE": 100, "ALTERNATING": 50} | dict.fromkeys(MEASURED, 100)
"""Largest percent of each family. Above a half, some layers of ALTERNATING would be neighbours."""
_DEFAULT = {"MIDDLE": 50, "ALTERNATING": 50} | dict.fromkeys(MEASURED, 0)
"""Percent of the families that may be named without one."""
NAMES = (
    *_FIXED,
    *("TOP-<percent>", "BOTTOM-<percent>", "MIDDLE[-<percent>]", "ALTERNATING[-<percent>]", "RANDOM-<k>"),
    *(f"{name}[-<percent>]" for name in MEASURED),
)


def parse_allocation(name: str) -> tuple[str, int]:
    """Split a name into its family and number: ``TOP-50`` into TOP and 50, ``UNIF-ALL`` into itself and its percent.

    The number of an allocation of ``MEASURED`` is 0 if it goes to the elbow.

    Raises:
        ValueError: if the name is unknown or its percent out of range. The number of RANDOM is not checked, because its
            range depends on the depth.
    """
    if name in _FIXED:
        return name, _FIXED[name][0]
    if name in _DEFAULT:
        return name, _DEFAULT[name]
    family, _, number = name.rpartition("-")
    if family not in (*_LARGEST, "RANDOM") or not (number.isascii() and number.isdigit()):
        raise ValueError(f"an allocation must be one of {', '.join(NAMES)}, but got {name!r}")
    if family != "RANDOM" and not 1 <= int(number) <= _LARGEST[family]:
        raise ValueError(f"{family}-p must have 1 <= p <= {_LARGEST[family]} percent, but got {name!r}")
    return family, int(number)


def is_named(name: str) -> bool:
    """Whether a name belongs to the named allocations."""
    try:
        parse_allocation(name)
    except ValueError:
        return False
    return True


def named_allocation(name: str, depth: int, seed: int = 0) -> tuple[list[int], tuple[Module, ...]]:
    """Ascending layer indices of a named allocation in a model of the given depth, and its module types.

    A share of the depth is rounded down and has at least one layer (the study's rule). The seed is that of the draw for
    RANDOM.

    Raises:
        SponError: if the allocation must be measured first, or RANDOM has a number that the depth does not allow.
        ValueError: if the name is unknown or its percent out of range.
    """
    family, number = parse_allocation(name)
    modules = _FIXED[family][1] if family in _FIXED else MLP
    count = max(1, depth * number // 100) if number else 0
    layers: Iterable[int] = range(count)
    match family:
        case "BOTTOM":
            layers = range(depth - count, depth)
        case "MIDDLE":
            first = (depth - count) // 2
            layers = range(first, first + count)
        case "ALTERNATING":
            layers = (i * depth // count for i in range(count))
        case "RANDOM":
            if not 1 <= number <= depth:
                got = f"RANDOM-{number} (at allocations)"
                raise SponError(f"RANDOM-k must have 1 <= k <= {depth} for this model, but got {got}")
            layers = sorted(random.Random(seed).sample(range(depth), number))
        case _ if family in MEASURED:
            raise SponError(f"{name} must be measured first, which `python -m sweep run` does (at allocations)")
    return list(layers), modules
