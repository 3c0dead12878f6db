"""Do different trainings arrive at the same biases?

A cosine alone says little: biases that began at the same point, or that follow the same first gradient, are alike
without having converged on anything. The nulls are what the same allocation gives with other data order or text, and
the biases of other layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from analysis.finding import Effect, Finding, Row
from analysis.resampling import mean, null_range
from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from search_spaces.sites import Site
from trainables.statistics import Array

NAME = "cross"
_DRAWS = 2000


@dataclass(frozen=True)
class Trained:
    """The biases of one trial.

    Attributes:
        biases: output bias of each site, (out_features,).
        start: where training began, by site; a site that is not in it began at zero.
    """

    config: TrialConfig
    biases: Mapping[Site, Tensor]
    start: Mapping[Site, Tensor]

    @property
    def moved(self) -> dict[Site, Tensor]:
        """What training added to the start."""
        return {site: bias - self.start.get(site, torch.zeros_like(bias)) for site, bias in self.biases.items()}


@dataclass(frozen=True)
class Likeness:
    """Two sets of biases on the sites that they share.

    Attributes:
        cosines, distances: by site, (sites,).
        shuffled: mean cosine under random pairings of different sites of the same module, (draws,); empty with fewer
            than two sites of every module.
    """

    sites: tuple[Site, ...]
    cosines: Array
    distances: Array
    shuffled: Array


def compare(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], draws: int = _DRAWS, seed: int = 0) -> Likeness:
    """Cosine and Euclidean distance on every shared site.

    Args:
        one: (out_features,) by site.
        other: the same of the other trial.
        draws: random pairings of layers.
        seed: of the draws.

    Raises:
        SponError: if they share no site.
    """
    sites = tuple(site for site in one if site in other)
    if not sites:
        raise SponError(f"checkpoints to compare must share a site, but got none (at {NAME})")
    pairs = [(one[site].double(), other[site].double()) for site in sites]
    cosines = np.array([_cosine(a, b) for a, b in pairs])
    distances = np.array([float((a - b).norm()) for a, b in pairs])
    return Likeness(sites, cosines, distances, _shuffled(one, other, sites, draws, seed))


def _cosine(a: Tensor, b: Tensor) -> float:
    length = a.norm() * b.norm()
    return float(a @ b / length) if length else 0.0


def _shuffled(
    one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], sites: Sequence[Site], draws: int, seed: int
) -> Array:
    """Mean cosine if each bias is paired with that of another layer, by random rotations of a random order."""
    tables = []
    for module in dict.fromkeys(site.module for site in sites):
        of = [site for site in sites if site.module == module]
        if len(of) > 1:
            tables.append(np.array([[_cosine(one[a].double(), other[b].double()) for b in of] for a in of]))
    if not tables:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    n = sum(map(len, tables))
    return np.array([sum(_derangement_sum(table, rng) for table in tables) / n for _ in range(draws)])


def _derangement_sum(table: Array, rng: np.random.Generator) -> float:
    order = rng.permutation(len(table))
    partner = np.roll(order, int(rng.integers(1, len(table))))
    return float(table[order, partner].sum())


def relation(one: TrialConfig, other: TrialConfig) -> str:
    """What differs between two trials, the first that applies: model, text, plan, allocation, training, data order."""
    if one.model_fingerprint != other.model_fingerprint:
        return "another model"
    differs = [
        name
        for name, apart in (
            ("other text", one.corpus_fingerprint != other.corpus_fingerprint),
            ("other sparsity plan", one.plan != other.plan),
            ("other allocation", one.sites != other.sites),
            ("other training", _training(one) != _training(other)),
            ("other data order", one.training.seed != other.training.seed),
        )
        if apart
    ]
    return ", ".join(differs) or "the same trial"


def _training(config: TrialConfig) -> tuple[object, object]:
    return config.training.model_copy(update={"seed": 0}), config.warm_start


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
        null = null_range(whole.shuffled) if len(whole.shuffled) else None
        effects.append(Effect.of(f"{name}: mean cosine", mean(whole.cosines), "cosine", null))
        null = null_range(moved.shuffled) if len(moved.shuffled) else None
        effects.append(Effect.of(f"{name}: mean cosine of what training added", mean(moved.cosines), "cosine", null))
        if how in ("other data order", "other text"):
            ceilings.append(float(moved.cosines.mean()))
        rows += _rows(a, b, how, whole, moved)
    return Finding(
        analysis=NAME,
        title="Across configurations",
        question="Do trainings that share sites arrive at the same biases there, beyond where they began and what all "
        "layers have in common?",
        null="Each bias paired with that of another layer (ranges); and, where there are such checkpoints, the same "
        "allocation with another data order or text, which says how alike equal trainings are. Bootstraps over sites.",
        effects=tuple(effects),
        verdict=_verdict(effects, ceilings),
        rows=tuple(rows),
    )


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
    beyond = sum(e.interval[0] > e.null[1] for e in tested if e.interval and e.null)
    text = f"what training added is more alike than that of other layers in {beyond} of {len(tested)} pairs"
    if ceilings:
        text += f"; equal trainings with another data order or text agree by {np.mean(ceilings):+.2f}"
    else:
        text += "; no two checkpoints differ in data order or text alone, so how alike equal trainings are is not known"
    return text
