"""What is each bias worth: how much does it lower the KL, and do direction, norm and the mean error matter?"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells, number_in
from analysis.questions.norms import Scale, scales_of
from analysis.resampling import DRAWS, Units, holm, mean, null_range, p_of_zero, ratio
from analysis.subject import Mode, Subject
from search_spaces.sites import Site
from trainables import statistics
from trainables.evaluation import score, scores_from_tokens
from trainables.proxy import taken
from trainables.scores import Scores
from trainables.statistics import Array, Interval

NAME = "worth"
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_AS_THEY_ARE = "times 1.0"
_KNOWN: dict[str, Mode] = {"none": "teal", _AS_THEY_ARE: "spon", "all random": "random"}
"""Variants that are modes of a subject, which already has their scores on the whole text."""
_WHOLE = {
    "KL, all biases minus TEAL": _AS_THEY_ARE,
    "KL, all random minus TEAL": "all random",
    "KL, only the part along the mean error, minus TEAL": "on the mean error",
    "KL, only the part across it, minus TEAL": "off the mean error",
}
"""Effects of all biases together, with their variants."""
BLOCKS = 8
"""Evenly spaced blocks of the text for single sites, each of which costs about one pass over them."""
_FEWEST_RUNS = 8
_LEVEL = 0.05
_RELIABILITY = "reliability of the order of the sites"
_RELIABLE = 0.5
"""Below this the order of the sites means nothing."""

Vectors = Mapping[Site, Tensor]
Switches = NDArray[np.bool_]
Measure = Callable[[Switches, Tensor], Array]
"""Maps runs, (runs, sites), and places of blocks to the KL of these blocks in each run, (runs, blocks)."""


class Explained(NamedTuple):
    """A bias relative to the mean error of its site, W E[x - S(x)].

    Attributes:
        cosine: of the two.
        scale: factor that brings the mean error nearest to the bias.
        on, off: parts of the bias along the mean error and across it.
    """

    cosine: float
    scale: float
    on: Tensor
    off: Tensor


def explain(bias: Tensor, mean_error: Tensor) -> Explained:
    """Split a bias (width,) along the mean error of its site (width,)."""
    b, e = bias.double(), mean_error.double()
    scale = float(b @ e / (e @ e)) if e.any() else 0.0
    cosine = float(b @ e / (b.norm() * e.norm())) if e.any() and b.any() else 0.0
    on = (scale * e).to(bias.dtype)
    return Explained(cosine, scale, on, bias - on)


def design(n_sites: int) -> Switches:
    """Choose which biases are on in which run, (runs, sites).

    Each is on in half of the runs and any two are on together in a quarter (columns of a Hadamard matrix), so all runs
    measure every bias. What two of them do together is confounded with a third (``folded_effects``).
    """
    from scipy.linalg import hadamard  # type: ignore[import-untyped]  # a second to import

    runs = max(_FEWEST_RUNS, 1 << n_sites.bit_length())
    turned = np.random.default_rng(0).integers(0, 2, size=n_sites).astype(np.bool_)
    on: Switches = (hadamard(runs)[:, 1 : n_sites + 1] > 0) ^ turned
    return on


def main_effects(on: Switches, figures: Array) -> Array:
    """Return how much each bias lowers a figure, (sites, ...), from the figures of a design's runs, (runs, ...)."""
    signs = np.where(on, -1.0, 1.0)
    effects: Array = np.tensordot(signs, figures, axes=(0, 0)) / (len(on) / 2)
    return effects


def folded_effects(n_sites: int, blocks: Tensor, measure: Measure) -> Array:
    """Main effects of sites on the KL of each block, (sites, blocks).

    Every second block gets the complement of each run (a fold-over). A joint effect of two other sites then has
    opposite signs in the two halves of the blocks, of which there are two at least: it cancels in the mean, and widens
    the interval.
    """
    on = design(n_sites)
    even, odd = (main_effects(runs, measure(runs, blocks[start::2])) for start, runs in enumerate((on, ~on)))
    both = np.empty((n_sites, len(blocks)))
    both[:, 0::2], both[:, 1::2] = even, odd
    return both


def chosen_blocks(subject: Subject) -> Tensor:
    """Places of the evenly spaced blocks of the text on which single sites are measured."""
    there = len(subject.blocks.tokens)
    n = min(BLOCKS, there)
    return torch.arange(n) * there // n


def reliability(effects: Array, units: Units) -> float:
    """Return how reliably the text ranks sites by their effects, (sites, blocks); NaN for one unit or few sites."""
    by_unit = np.stack([effects[:, units == unit].mean(axis=1) for unit in np.unique(units)], axis=1)
    found = statistics.reliability(by_unit) if by_unit.shape[1] > 1 else None
    return math.nan if found is None else found


def whole_variants(biases: Vectors, explained: Mapping[Site, Explained]) -> dict[str, dict[Site, Tensor]]:
    """Return the variants of all biases that are no mode of a subject: scaled, and split along the mean error."""
    found = {f"times {factor}": {s: v * factor for s, v in biases.items()} for factor in FACTORS if factor != 1}
    found["on the mean error"] = {s: explained[s].on for s in biases if s in explained}
    found["off the mean error"] = {s: explained[s].off if s in explained else biases[s] for s in biases}
    return found


def find(subject: Subject) -> Finding:
    """Measure each bias on some blocks of the text, and all biases together on the whole text."""
    chosen = chosen_blocks(subject)
    scales = scales_of(subject)
    explained = {site: explain(subject.biases[site], scale.mean_error) for site, scale in scales.items()}

    def switched(run: Switches) -> AbstractContextManager[None]:
        on = zip(subject.biases.items(), run, strict=True)
        return subject.as_biases({site: bias for (site, bias), is_on in on if is_on})

    kl = folded_effects(len(subject.sites), chosen, kl_of_runs(subject, switched))
    units = subject.units[chosen.numpy()]
    rows = _site_rows(subject, kl, units, explained)
    scores = {name: scores_from_tokens(*subject.tokens[mode], subject.blocks) for name, mode in _KNOWN.items()}
    for name, vectors in whole_variants(subject.biases, explained).items():
        with subject.as_biases(vectors):
            scores[name] = score(subject.model, subject.blocks, subject.teacher)
    changes = {name: difference(changed, scores["none"], subject.units) for name, changed in scores.items()}
    effects = _effects(subject, changes, rows, scales, reliability(kl, units))
    rows += [_whole_row(name, change) for name, change in changes.items() if name != "none"]
    return Finding(
        analysis=NAME,
        title="What a bias is worth",
        question="How much does one site's bias lower the KL, and do the direction of the biases, their size, or their "
        "part along the mean error of sparsification matter?",
        null="No bias at the site; for all together, random vectors of the same norms. A site's figure is a mean over "
        f"{len(design(len(subject.sites)))} runs in which the other biases alternate between on and off, on "
        f"{len(chosen)} blocks. Intervals are jackknives over documents. Counts of sites and their p values are "
        "adjusted for all sites together (Holm): none by chance in 95% of cases.",
        effects=effects,
        verdict=_verdict(effects, len(subject.sites)),
        rows=tuple(rows),
    )


def kl_of_runs(subject: Subject, switched: Callable[[Switches], AbstractContextManager[None]]) -> Measure:
    """Measure the KL of blocks, nats per position, in runs that ``switched`` sets up, for ``folded_effects``."""

    def measure(runs: Switches, places: Tensor) -> Array:
        text, kl = taken(subject.blocks, subject.teacher, places), []
        for run in runs:
            with switched(run):
                scores = score(subject.model, *text)
            kl.append((scores.block_kl / scores.block_positions).numpy())
        return np.array(kl)

    return measure


def difference(one: Scores, other: Scores, units: Units) -> Interval:
    """Return the KL of one model minus that of another, mean nats per token, paired over units of blocks."""
    return ratio((one.block_kl - other.block_kl).numpy(), one.block_positions.numpy(), units)


def _site_rows(subject: Subject, kl: Array, units: Units, explained: Mapping[Site, Explained]) -> list[Row]:
    taken_off = [mean(effects, units) for effects in kl]
    p_values = holm([p_of_zero(interval, len(np.unique(units))) for interval in taken_off])
    rows: list[Row] = []
    for place, site in enumerate(subject.sites):
        cosine, scale, *_ = explained.get(site, (None, None))
        row: Row = {"variant": "site", "site": str(site)}
        row |= cells("kl_taken_off", taken_off[place]) | {"p_kl_taken_off": p_values[place]}
        rows.append(row | {"mean_error_cosine": cosine, "mean_error_scale": scale})
    return rows


def _whole_row(name: str, against_teal: Interval) -> Row:
    row: Row = {"variant": name, "site": "all"}
    return row | cells("kl_minus_teal", against_teal)


def _effects(
    subject: Subject, changes: Mapping[str, Interval], sites: list[Row], scales: Mapping[Site, Scale], reliable: float
) -> tuple[Effect, ...]:
    found = [Effect.of(label, changes[name], "nats") for label, name in _WHOLE.items()]
    sure = [number_in(row, "kl_taken_off") for row in sites if number_in(row, "p_kl_taken_off") < _LEVEL]
    for way, sign in (("lowers", 1), ("raises", -1)):
        label = f"sites whose bias clearly {way} the KL, of {len(sites)}"
        found.append(Effect.count(label, [sign * taken_off > 0 for taken_off in sure]))
    if not math.isnan(reliable):
        found.append(Effect(label=_RELIABILITY, value=reliable, unit="correlation"))
    if scales:  # a site that stays dense has no error
        found.append(_explained("a bias", subject.biases, scales))
        found.append(_explained("what training added to its start", subject.trained.moved, scales))
    best = min(FACTORS, key=lambda factor: changes[f"times {factor}"].value)
    found.append(Effect(label="factor of all biases with the lowest KL", value=best, unit="times"))
    return tuple(found)


def _explained(label: str, vectors: Vectors, scales: Mapping[Site, Scale]) -> Effect:
    """Average squared cosines with the mean errors; for random vectors they follow Beta(1 / 2, (width - 1) / 2)."""
    squared = np.array([explain(vectors[site], scale.mean_error).cosine ** 2 for site, scale in scales.items()])
    widths = np.array([len(vectors[site]) for site in scales])
    chance = np.random.default_rng(0).beta(0.5, (widths - 1) / 2, size=(DRAWS, len(widths))).mean(axis=1)
    name = f"share of {label} that the mean error explains (squared cosine)"
    return Effect.of(name, mean(squared), "fraction", null_range(chance))


_DO = {-1: "lower the KL", 1: "raise the KL", 0: "have no clear effect on the KL"}
_DOES = {-1: "lowers the KL", 1: "raises the KL", 0: "has no clear effect on the KL"}


def _verdict(effects: tuple[Effect, ...], n_sites: int) -> str:
    full, random, on, off, lowers, raises, *rest = effects
    reliable = next((effect.value for effect in rest if effect.label == _RELIABILITY), 1.0)
    unclear = "; the text cannot tell which sites matter most" if reliable < _RELIABLE else ""
    return (
        f"together they {_DO[full.sign]}, random vectors {_DO[random.sign]}; the part along the mean error "
        f"alone {_DOES[on.sign]}, the part across it {_DOES[off.sign]}; of {n_sites} sites {lowers.value:.0f} clearly "
        f"lower the KL and {raises.value:.0f} clearly raise it{unclear}"
    )
