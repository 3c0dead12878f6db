"""Do different trainings arrive at the same biases?

A cosine alone says little: biases with the same start or the same first gradient are alike without having converged on
anything. The nulls are the same allocation with another data order or text, and the biases of other layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.finding import Effect, Finding, Row
from analysis.resampling import error_of_one_more, holm, mean, range_of_one_more
from analysis.subject import Trained
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.statistics import TAIL, Array

NAME = "cross"
_TINY = 1e-300  # smaller lengths count as zero
_ROUNDING = 1e-9
_FEWEST = 5
"""Least layers of a module from which one could stand out."""


@dataclass(frozen=True)
class Likeness:
    """Likeness of two sets of biases on the sites that they share.

    Attributes:
        cosines, distances: by site, (sites,).
        shifted: mean cosine with the other's biases moved along by 1, 2, ... layers in their module, cyclically,
            (shifts,); empty if there are too few layers.

    Shuffled layers would be a wrong null. Neighbours are alike in each trial, so independent trials would look alike
    in 12% of cases over 12 layers and 16% over 30 (AR(1) biases, rho .8), against a nominal 2.5%.
    """

    sites: tuple[Site, ...]
    cosines: Array
    distances: Array
    shifted: Array

    @property
    def null(self) -> tuple[float, float] | None:
        """95% range of the mean cosine if the layer did not matter: Student's prediction interval for one more shift.

        False alarms above it, at a nominal 2.5%, for rho = 0, .5 and .8: 2.5, 1.9 and 1.9% over 12 layers, 2.9, 2.0
        and 1.5% over 30.
        """
        return range_of_one_more(self.shifted) if len(self.shifted) else None

    @property
    def p(self) -> float:
        """Chance of so high a mean cosine if the layer did not matter."""
        from scipy.stats import t  # type: ignore[import-untyped]  # a second to import

        beyond = float(self.cosines.mean() - self.shifted.mean())
        return float(t.sf(beyond / max(error_of_one_more(self.shifted), _ROUNDING), len(self.shifted) - 1))


def compare(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor]) -> Likeness:
    """Compute the cosine and the Euclidean distance of biases (out_features,) on every site that both trials have."""
    sites = tuple(site for site in one if site in other)
    cosines = np.array([_cosines(one, other, [site]).item() for site in sites])
    distances = np.array([float((one[site].double() - other[site].double()).norm()) for site in sites])
    return Likeness(sites, cosines, distances, _shifted(one, other, sites))


def _cosines(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], sites: Sequence[Site]) -> Array:
    """Return cosines between all biases of both, (sites, sites), at sites of one width; zero for a zero vector."""
    a, b = (normalize(torch.stack([of[site].double() for site in sites]), eps=_TINY) for of in (one, other))
    cosines: Array = (a @ b.T).numpy()
    return cosines


def _shifted(one: Mapping[Site, Tensor], other: Mapping[Site, Tensor], sites: Sequence[Site]) -> Array:
    modules = dict.fromkeys(site.module for site in sites)
    tables = [_cosines(one, other, [site for site in sites if site.module == module]) for module in modules]
    longest = max(len(table) for table in tables)
    if longest < _FEWEST:
        return np.empty(0)
    places = [np.arange(len(table)) for table in tables]
    sums = [
        sum(float(table[at, (at + shift) % len(at)].sum()) for table, at in zip(tables, places, strict=True))
        for shift in range(1, longest)
    ]
    return np.array(sums) / len(sites)


def relation(one: TrialConfig, other: TrialConfig) -> str:
    """Name what differs between two trials: the model, or any of dtype, text, plan, allocation, training, order."""
    if one.model_fingerprint != other.model_fingerprint:
        return "another model"
    reseeded = one.training.model_copy(update={"seed": other.training.seed})
    differs = {
        "other number format": one.model.dtype != other.model.dtype,
        "other text": one.corpus_fingerprint != other.corpus_fingerprint,
        "other sparsity plan": one.plan != other.plan,
        "other allocation": one.sites != other.sites,
        "other training": reseeded != other.training,
        "other data order": one.training.seed != other.training.seed,
    }
    return ", ".join(name for name, apart in differs.items() if apart) or "the same trial"


def incomparable(trials: Sequence[TrialConfig]) -> str | None:
    """Return why trials cannot be compared; None if they can."""
    if len(trials) < 2:
        return f"a comparison must have two checkpoints, but got {len(trials)}"
    models = sorted({trial.model_fingerprint for trial in trials})
    if len(models) > 1:
        return f"checkpoints to compare must be of one model, but got {', '.join(models)}"
    if all(set(a.sites).isdisjoint(b.sites) for a, b in combinations(trials, 2)):
        return "checkpoints to compare must share a site, but no two do"
    return None


def find(trained: Sequence[Trained]) -> Finding:
    """Compare every pair of trials that share a site. They must not be ``incomparable``."""
    pairs = [(a, b) for a, b in combinations(trained, 2) if a.biases.keys() & b.biases.keys()]
    rows: list[Row] = []
    effects: list[Effect] = []
    ceilings: list[float] = []
    p_values: list[float] = []
    for a, b in pairs:
        whole, moved = compare(a.biases, b.biases), compare(a.moved, b.moved)
        one, other, how = a.config.name, b.config.name, relation(a.config, b.config)
        name = f"{one} and {other} ({how})"
        for what, of in (("mean cosine", whole), ("mean cosine of what training added", moved)):
            effects.append(Effect.of(f"{name}: {what}", mean(of.cosines), "cosine", of.null))
        if how in ("other data order", "other text"):
            ceilings.append(float(moved.cosines.mean()))
        if len(moved.shifted):
            p_values.append(moved.p)
        pair: Row = {"one": one, "other": other, "relation": how}
        rows += [pair | row for row in _rows(whole, moved)]
    return Finding(
        analysis=NAME,
        title="Across configurations",
        question="Do trainings that share sites arrive at the same biases there, beyond a common start and what all "
        "layers have in common?",
        null="Layers shifted against each other, by every possible number of layers, if there are enough (ranges). The "
        "count of trial pairs beyond that is adjusted for all pairs together (Holm). Where such checkpoints exist, the "
        "same allocation with another data order or text, which shows how alike equal trainings are. Intervals are "
        "jackknives over sites.",
        effects=tuple(effects),
        verdict=_verdict(p_values, ceilings),
        rows=tuple(rows),
    )


def _rows(whole: Likeness, moved: Likeness) -> list[Row]:
    return [
        {
            "site": str(site),
            "cosine": float(whole.cosines[i]),
            "distance": float(whole.distances[i]),
            "moved_cosine": float(moved.cosines[i]),
            "moved_distance": float(moved.distances[i]),
        }
        for i, site in enumerate(whole.sites)
    ]


def _verdict(p_values: Sequence[float], ceilings: Sequence[float]) -> str:
    beyond, n = sum(p < TAIL for p in holm(p_values)), len(p_values)
    text = f"what training added is more alike in the same layer than across layers in {beyond} of {n} pairs"
    if not p_values:
        text = "too few layers are shared to tell a layer's biases from those of others"
    if ceilings:
        return f"{text}; equal trainings with another data order or text have a mean cosine of {np.mean(ceilings):+.2f}"
    return (
        f"{text}; no two checkpoints differ in data order or text alone, so the likeness of equal trainings is unknown"
    )
