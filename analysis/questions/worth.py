"""What is each bias worth: what is lost without it, what does it give alone, does its direction count or its norm?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analysis.finding import Effect, Finding, Row, cells
from analysis.questions.norms import Scale, scales_of
from analysis.resampling import DRAWS, Units, mean, null_range, ratio
from analysis.subject import Mode, Subject
from search_spaces.sites import Site
from trainables.corpus import Blocks
from trainables.evaluation import score, scores_from_tokens, token_scores
from trainables.prefix import Outputs, recorded, resumed
from trainables.proxy import taken
from trainables.scores import Scores
from trainables.statistics import Interval
from trainables.teacher import Teacher

NAME = "worth"
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_AS_THEY_ARE = "times 1.0"
_KNOWN: dict[str, Mode] = {"none": "teal", _AS_THEY_ARE: "spon", "all random": "random"}
"""Modes of a subject, whose scores on all of the text it has already."""
BLOCKS = 8
"""Of the text, at even distances, for single sites, each of which costs three passes over them."""

Vectors = Mapping[Site, Tensor]


@dataclass(frozen=True)
class Explained:
    """How a bias lies to the mean error of its site, W E[x - S(x)].

    Attributes:
        cosine: of the two.
        scale: what the mean error must be multiplied with to come nearest to the bias.
        on, off: parts of the bias along it and across.
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


def site_variants(site: Site, biases: Vectors, random: Vectors) -> dict[str, tuple[str, dict[Site, Tensor]]]:
    """The biases without, with only, and with a random vector at a site, by name.

    Returns:
        The mode, ``full`` or ``none``, that each is like in all layers before the site's, and the biases themselves.
    """
    return {
        f"without {site}": ("full", {s: v for s, v in biases.items() if s != site}),
        f"only {site}": ("none", {site: biases[site]}),
        f"random {site}": ("full", {**biases, site: random[site]}),
    }


def whole_variants(
    biases: Vectors, random: Vectors, explained: Mapping[Site, Explained]
) -> dict[str, dict[Site, Tensor]]:
    """The biases changed all together: scaled (once by one), split along the mean error, drawn at random."""
    found = {f"times {factor}": {s: v * factor for s, v in biases.items()} for factor in FACTORS}
    found["on the mean error"] = {s: explained[s].on for s in biases if s in explained}
    found["off the mean error"] = {s: explained[s].off if s in explained else biases[s] for s in biases}
    found["all random"] = dict(random)
    return found


def find(subject: Subject) -> Finding:
    """Ask it of every bias, on some blocks of the text, and of all together, on all of them."""
    n = min(BLOCKS, len(subject.blocks.tokens))
    chosen = torch.arange(n) * len(subject.blocks.tokens) // n
    scales = scales_of(subject)
    explained = {site: explain(subject.biases[site], scale.mean_error) for site, scale in scales.items()}
    single, units = _site_scores(subject, chosen), np.unique(subject.units[chosen], return_inverse=True)[1]
    rows = [_site_row(site, single, units, explained.get(site), len(subject.sites)) for site in subject.sites]
    known = {name: scores_from_tokens(*subject.tokens[mode], subject.blocks) for name, mode in _KNOWN.items()}
    changed = whole_variants(subject.biases, subject.random, explained)
    rest = {name: vectors for name, vectors in changed.items() if name not in known}
    scores = known | _scores(subject, rest)
    rows += [_whole_row(name, scores, subject.units) for name in scores if name != "none"]
    effects = _effects(subject, scores, rows, scales)
    return Finding(
        analysis=NAME,
        title="What a bias is worth",
        question="What is lost without one site's bias, what does it give alone, and does its direction matter, its "
        "size, or the part of it that is the mean of what sparsification took?",
        null="Without the bias, and with one random vector of the same norm in its place. Intervals are jackknives "
        f"over documents; those of single sites, on {n} blocks, hold for all sites together (Bonferroni, for each "
        "question of them), so that no count should be above zero by chance.",
        effects=effects,
        verdict=_verdict(effects, len(subject.sites)),
        rows=tuple(rows),
    )


def _scores(subject: Subject, changed: Mapping[str, Vectors]) -> dict[str, Scores]:
    """Of all of the text, by name."""
    scores = {}
    for name, vectors in changed.items():
        with subject.as_biases(vectors):
            scores[name] = score(subject.model, subject.blocks, subject.teacher)
    return scores


def _site_scores(subject: Subject, chosen: Tensor) -> dict[str, Scores]:
    """Of some blocks with all biases, with none, and with each change of one site, by name."""
    blocks, teacher = taken(subject.blocks, subject.teacher, chosen)
    parts = [_batch_scores(subject, *taken(blocks, teacher, rows)) for rows in subject.model.batches(blocks.tokens)]
    found = {}
    for name in parts[0]:
        nll, kl = (torch.cat(tokens) for tokens in zip(*(part[name] for part in parts), strict=True))
        found[name] = scores_from_tokens(nll, kl, blocks)
    return found


def _batch_scores(subject: Subject, blocks: Blocks, teacher: Teacher) -> dict[str, tuple[Tensor, Tensor]]:
    """The same of blocks that go through the model at once. A change of one site leaves the layers before it alone."""
    model, scores, before = subject.model, dict[str, tuple[Tensor, Tensor]](), dict[str, Outputs]()
    for name, vectors in (("none", {}), ("full", subject.biases)):
        with subject.as_biases(vectors), recorded(model) as before[name]:
            scores[name] = token_scores(model, blocks, teacher)
    for site in subject.biases:
        for name, (base, vectors) in site_variants(site, subject.biases, subject.random).items():
            with subject.as_biases(vectors), resumed(model, site.layer, before[base]):
                scores[name] = token_scores(model, blocks, teacher)
    return scores


def difference(
    one: Scores,
    other: Scores,
    units: Units | None = None,
    figure: Literal["kl", "nll"] = "kl",
    comparisons: int = 1,
) -> Interval:
    """One minus another, mean nats a token, with a paired interval over units of blocks.

    Args:
        one: scores of a text.
        other: of the same text.
        units: of its blocks; each block is one, by default.
        figure: which.
        comparisons: so many such intervals hold together.
    """
    sums = [getattr(scores, f"block_{figure}").numpy() for scores in (one, other)]
    tokens = (one.block_positions if figure == "kl" else one.block_predictions).numpy()
    return ratio(sums[0] - sums[1], tokens, comparisons, units)


def _site_row(site: Site, scores: Mapping[str, Scores], units: Units, explained: Explained | None, n_sites: int) -> Row:
    lost = difference(scores[f"without {site}"], scores["full"], units, comparisons=n_sites)
    alone = difference(scores["none"], scores[f"only {site}"], units, comparisons=n_sites)
    random = difference(scores[f"random {site}"], scores[f"without {site}"], units, comparisons=n_sites)
    row: Row = {"variant": "site", "site": str(site)}
    for name, interval in (("kl_lost_without", lost), ("kl_gained_alone", alone), ("kl_random_costs", random)):
        row |= cells(name, interval)
    row["nll_lost_without"] = difference(scores[f"without {site}"], scores["full"], units, "nll").value
    row["mean_error_cosine"] = explained.cosine if explained else None
    row["mean_error_scale"] = explained.scale if explained else None
    return row


def _whole_row(name: str, scores: Mapping[str, Scores], units: Units) -> Row:
    kl, nll = (difference(scores[name], scores["none"], units, figure) for figure in ("kl", "nll"))
    row: Row = {"variant": name, "site": "all"}
    return row | cells("kl_minus_teal", kl) | {"nll_minus_teal": nll.value}


def _effects(
    subject: Subject, scores: Mapping[str, Scores], rows: list[Row], scales: Mapping[Site, Scale]
) -> tuple[Effect, ...]:
    sites = [row for row in rows if row["variant"] == "site"]
    n = len(sites)

    def effect(label: str, one: str, other: str) -> Effect:
        return Effect.of(label, difference(scores[one], scores[other], subject.units), "nats")

    found = [
        effect("KL, all biases minus TEAL", _AS_THEY_ARE, "none"),
        effect("KL, all random minus TEAL", "all random", "none"),
        effect("KL, only the part along the mean error, minus TEAL", "on the mean error", "none"),
        effect("KL, only the part across it, minus TEAL", "off the mean error", "none"),
    ]
    found += [
        Effect(label=f"{what}, of {n}", value=_surely(sites, name), null=(0, 0), unit="sites")
        for what, name in (
            ("sites whose removal surely costs KL", "kl_lost_without"),
            ("sites that surely help alone", "kl_gained_alone"),
            ("sites where a random vector surely costs KL", "kl_random_costs"),
        )
    ]
    if scales:  # a bias at a site that stays dense has no error to be explained by
        found.append(_explained("a bias", subject.biases, scales))
        found.append(_explained("what training added to its start", subject.trained.moved, scales))
    best = min(FACTORS, key=lambda factor: scores[f"times {factor}"].kl_nats)
    found.append(Effect(label="factor of all biases with the lowest KL", value=best, unit="times"))
    return tuple(found)


def _explained(label: str, vectors: Vectors, scales: Mapping[Site, Scale]) -> Effect:
    """Squared cosines with the mean errors; for random vectors they are Beta(1 / 2, (width - 1) / 2)."""
    squared = np.array([explain(vectors[site], scale.mean_error).cosine ** 2 for site, scale in scales.items()])
    widths = np.array([len(vectors[site]) for site in scales])
    chance = np.random.default_rng(0).beta(0.5, (widths - 1) / 2, size=(DRAWS, len(widths))).mean(axis=1)
    name = f"share of {label} that the mean error explains (squared cosine)"
    return Effect.of(name, mean(squared), "fraction", null_range(chance))


def _surely(rows: Iterable[Row], name: str) -> int:
    return sum(row[f"{name}_low"] is not None and float(row[f"{name}_low"]) > 0 for row in rows)  # type: ignore[arg-type]


def _verdict(effects: tuple[Effect, ...], n_sites: int) -> str:
    def said(effect: Effect) -> str:
        low, high = effect.interval or (-np.inf, np.inf)
        return "lowers the KL" if high < 0 else "raises the KL" if low > 0 else "changes the KL by nothing sure"

    full, random, on, off, removed, alone, *_ = effects
    return (
        f"together they {_plural(said(full))}, random vectors {_plural(said(random))}; the part along the mean error "
        f"alone {said(on)}, the part across it {said(off)}; of {n_sites} sites {removed.value:.0f} are surely missed "
        f"when removed, {alone.value:.0f} surely help alone"
    )


def _plural(verb: str) -> str:
    return verb.replace("lowers", "lower").replace("raises", "raise").replace("changes", "change")
