"""Do different trainings arrive at the same biases?

A cosine alone says little: biases that began at the same point, or that follow the same first gradient, are alike
without having converged on anything. The nulls are what the same allocation gives with other data order or text, and
the biases of other layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial, prod

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.finding import Effect, Finding, Row
from analysis.resampling import DRAWS, mean, null_range
from analysis.subject import Trained
from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from search_spaces.sites import Site
from trainables.statistics import TAIL, Array

NAME = "cross"
_TINY = 1e-300  # a length below it is taken for zero


@dataclass(frozen=True)
class Likeness:
    """Two sets of biases on the sites that they share.

    Attributes:
        cosines, distances: by site, (sites,).
        shuffled: mean cosine under random pairings of the sites of each module, the true one among them, (draws,);
            empty where there are so few that the true one could not stand out.
    """

    sites: tuple[Site, ...]
    cosines: Array
    distances: Array
    shuffled: Array


def compare(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], draws: int = DRAWS, seed: int = 0) -> Likeness:
    """Cosine and Euclidean distance on every shared site.

    Args:
        one: (out_features,) by site.
        other: the same of the other trial.
        draws: random pairings.
        seed: of the draws.

    Raises:
        SponError: if they share no site.
    """
    sites = tuple(site for site in one if site in other)
    if not sites:
        raise SponError(f"checkpoints to compare must share a site, but got none (at {NAME})")
    cosines = np.array([_cosines(one, other, [site]).item() for site in sites])
    distances = np.array([float((one[site].double() - other[site].double()).norm()) for site in sites])
    return Likeness(sites, cosines, distances, _shuffled(one, other, sites, draws, seed))


def _cosines(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], sites: Sequence[Site]) -> Array:
    """Of each bias of one with each of the other, (sites, sites), at sites of one width; zero with a zero vector."""
    a, b = (normalize(torch.stack([of[site].double() for site in sites]), eps=_TINY) for of in (one, other))
    cosines: Array = (a @ b.T).numpy()
    return cosines


def _shuffled(
    one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], sites: Sequence[Site], draws: int, seed: int
) -> Array:
    """Mean cosine if each bias is paired with that of any layer, by random permutations within the modules.

    The true pairing is one of them, as in any permutation test.
    """
    modules = dict.fromkeys(site.module for site in sites)
    tables = [_cosines(one, other, [site for site in sites if site.module == module]) for module in modules]
    if prod(factorial(len(table)) for table in tables) <= 1 / TAIL:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    return np.array([sum(_permuted_sum(table, rng) for table in tables) / len(sites) for _ in range(draws)])


def _permuted_sum(table: Array, rng: np.random.Generator) -> float:
    return float(table[np.arange(len(table)), rng.permutation(len(table))].sum())


def relation(one: TrialConfig, other: TrialConfig) -> str:
    """What differs between two trials: the model, or all of number format, text, plan, allocation, training, order."""
    if one.model_fingerprint != other.model_fingerprint:
        return "another model"
    differs = [
        name
        for name, apart in (
            ("other number format", one.model.dtype != other.model.dtype),
            ("other text", one.corpus_fingerprint != other.corpus_fingerprint),
            ("other sparsity plan", one.plan != other.plan),
            ("other allocation", one.sites != other.sites),
            ("other training", _training(one) != _training(other)),
            ("other data order", one.training.seed != other.training.seed),
        )
        if apart
    ]
    return ", ".join(differs) or "the same trial"


def _training(config: TrialConfig) -> object:
    return config.training.model_copy(update={"seed": 0})


def incomparable(trials: Sequence[TrialConfig]) -> str | None:
    """Why trials cannot be compared; None if they can."""
    if len(trials) < 2:
        return f"a comparison must have two checkpoints, but got {len(trials)}"
    models = sorted({trial.model_fingerprint for trial in trials})
    if len(models) > 1:
        return f"checkpoints to compare must be of one model, but got {', '.join(models)}"
    if all(set(a.sites).isdisjoint(b.sites) for a, b in combinations(trials, 2)):
        return "checkpoints to compare must share a site, but no two do"
    return None


def find(trained: Sequence[Trained]) -> Finding:
    """Compare every two of some trials that share a site.

    Raises:
        SponError: if they are ``incomparable``.
    """
    if reason := incomparable([t.config for t in trained]):
        raise SponError(f"{reason} (at {NAME})")
    pairs = [(a, b) for a, b in combinations(trained, 2) if a.biases.keys() & b.biases.keys()]
    rows: list[Row] = []
    effects: list[Effect] = []
    ceilings: list[float] = []
    for a, b in pairs:
        whole, moved = compare(a.biases, b.biases), compare(a.moved, b.moved)
        how = relation(a.config, b.config)
        name = f"{a.config.name} and {b.config.name} ({how})"
        effects.append(_effect(f"{name}: mean cosine", whole))
        effects.append(_effect(f"{name}: mean cosine of what training added", moved))
        if how in ("other data order", "other text"):
            ceilings.append(float(moved.cosines.mean()))
        rows += _rows(a, b, how, whole, moved)
    return Finding(
        analysis=NAME,
        title="Across configurations",
        question="Do trainings that share sites arrive at the same biases there, beyond where they began and what all "
        "layers have in common?",
        null="Layers shuffled within each module, where there are enough of them (ranges). Where there are such "
        "checkpoints, the same allocation with another data order or text, which says how alike equal trainings are. "
        "Intervals are jackknives over sites.",
        effects=tuple(effects),
        verdict=_verdict(effects, ceilings),
        rows=tuple(rows),
    )


def _effect(label: str, likeness: Likeness) -> Effect:
    null = null_range(likeness.shuffled) if len(likeness.shuffled) else None
    return Effect.of(label, mean(likeness.cosines), "cosine", null)


def _rows(a: Trained, b: Trained, how: str, whole: Likeness, moved: Likeness) -> list[Row]:
    return [
        {
            "one": a.config.name,
            "other": b.config.name,
            "relation": how,
            "site": str(site),
            "cosine": float(whole.cosines[i]),
            "distance": float(whole.distances[i]),
            "moved_cosine": float(moved.cosines[i]),
            "moved_distance": float(moved.distances[i]),
        }
        for i, site in enumerate(whole.sites)
    ]


def _verdict(effects: Sequence[Effect], ceilings: Sequence[float]) -> str:
    moved = [effect for effect in effects if effect.label.endswith("training added")]
    tested = [effect for effect in moved if effect.null is not None]
    beyond = sum(e.value > e.null[1] for e in tested if e.null)
    text = f"what training added is more alike in the same layer than across layers in {beyond} of {len(tested)} pairs"
    if not tested:
        text = "too few layers are shared to tell a layer's biases from those of others"
    if ceilings:
        text += f"; equal trainings with another data order or text agree by {np.mean(ceilings):+.2f}"
    else:
        text += "; no two checkpoints differ in data order or text alone, so how alike equal trainings are is not known"
    return text
