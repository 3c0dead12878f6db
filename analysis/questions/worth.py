"""What is each bias worth: what is lost without it, what does it give alone, does its direction count or its norm?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from analysis.finding import Effect, Finding, Row
from analysis.questions.norms import Scale, scales_of
from analysis.resampling import RESAMPLES, mean, null_range
from analysis.subject import Subject
from search_spaces.sites import Site
from trainables.corpus import Blocks
from trainables.evaluation import Scores, score
from trainables.statistics import TAIL, Interval, paired_bootstrap
from trainables.teacher import Teacher

NAME = "worth"
FACTORS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
BLOCKS = 8
"""Of the text; every site costs three passes over them."""

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


def variants(biases: Vectors, random: Vectors, explained: Mapping[Site, Explained]) -> dict[str, dict[Site, Tensor]]:
    """The biases as they are, and in every way that the question changes them, by name."""
    found: dict[str, dict[Site, Tensor]] = {"full": dict(biases)}
    for site in biases:
        found[f"without {site}"] = {s: v for s, v in biases.items() if s != site}
        found[f"only {site}"] = {site: biases[site]}
        found[f"random {site}"] = {**biases, site: random[site]}
    found |= {f"times {factor}": {s: v * factor for s, v in biases.items()} for factor in FACTORS}
    found["on the mean error"] = {s: explained[s].on for s in biases if s in explained}
    found["off the mean error"] = {s: explained[s].off if s in explained else biases[s] for s in biases}
    found["all random"] = dict(random)
    return found


def find(subject: Subject) -> Finding:
    """Ask it of every bias and of all together, on the first blocks of the text."""
    n = min(BLOCKS, len(subject.blocks.tokens))
    scales = scales_of(subject)
    explained = {site: explain(subject.biases[site], scale.mean_error) for site, scale in scales.items()}
    scores = _scores(subject, n, variants(subject.biases, subject.random, explained))
    rows = [_site_row(site, scores, explained.get(site), scales, len(subject.sites)) for site in subject.sites]
    rows += [_whole_row(name, scores) for name in scores if name.startswith(("times", "on ", "off ", "all"))]
    effects = _effects(subject, scores, rows, scales)
    return Finding(
        analysis=NAME,
        title="What a bias is worth",
        question="What is lost without one site's bias, what does it give alone, and does its direction matter, its "
        "size, or the part of it that is the mean of what sparsification took?",
        null=f"A random vector of the same norm in its place. {n} blocks; intervals of single sites hold for all "
        "of them together (Bonferroni).",
        effects=effects,
        verdict=_verdict(effects, len(subject.sites)),
        rows=tuple(rows),
    )


def _scores(subject: Subject, n: int, changed: Mapping[str, Vectors]) -> dict[str, Scores]:
    blocks = Blocks(subject.blocks.tokens[:n], subject.blocks.documents[:n])
    t = subject.teacher
    teacher = Teacher(t.mean_row[:n], t.entropy[:n], t.nll[:n], None)
    scores = {}
    for name, vectors in {"none": {}, **changed}.items():
        with subject.as_biases(vectors):
            scores[name] = score(subject.model, blocks, teacher)
    return scores


def difference(one: Scores, other: Scores, figure: str = "kl", comparisons: int = 1) -> Interval:
    """One minus another, mean nats a token, with a paired interval that holds for so many comparisons together."""
    return paired_bootstrap(
        {"one": one, "other": other},
        {"difference": lambda m: getattr(m["one"], figure) - getattr(m["other"], figure)},
        tail=TAIL / comparisons,
    )["difference"]


def _site_row(
    site: Site, scores: Mapping[str, Scores], explained: Explained | None, scales: Mapping[Site, Scale], n_sites: int
) -> Row:
    lost = difference(scores[f"without {site}"], scores["full"], comparisons=n_sites)
    alone = difference(scores["none"], scores[f"only {site}"], comparisons=n_sites)
    random = difference(scores[f"random {site}"], scores[f"without {site}"], comparisons=n_sites)
    row: Row = {"variant": "site", "site": str(site)}
    for name, interval in (("kl_lost_without", lost), ("kl_gained_alone", alone), ("kl_random_costs", random)):
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["nll_lost_without"] = difference(scores[f"without {site}"], scores["full"], "nll").value
    row["mean_error_cosine"] = explained.cosine if explained else None
    row["mean_error_scale"] = explained.scale if explained else None
    return row


def _whole_row(name: str, scores: Mapping[str, Scores]) -> Row:
    kl, nll = (difference(scores[name], scores["none"], figure) for figure in ("kl", "nll"))
    return {
        "variant": name,
        "site": "all",
        "kl_minus_teal": kl.value,
        "kl_minus_teal_low": kl.low,
        "kl_minus_teal_high": kl.high,
        "nll_minus_teal": nll.value,
    }


def _effects(
    subject: Subject, scores: Mapping[str, Scores], rows: list[Row], scales: Mapping[Site, Scale]
) -> tuple[Effect, ...]:
    sites = [row for row in rows if row["variant"] == "site"]
    n = len(sites)

    def effect(label: str, one: str, other: str) -> Effect:
        return Effect.of(label, difference(scores[one], scores[other]), "nats")

    found = [
        effect("KL, all biases minus TEAL", "full", "none"),
        effect("KL, all random minus TEAL", "all random", "none"),
        effect("KL, only the part along the mean error, minus TEAL", "on the mean error", "none"),
        effect("KL, only the part across it, minus TEAL", "off the mean error", "none"),
        Effect(
            label=f"sites whose removal surely costs KL, of {n}", value=_surely(sites, "kl_lost_without"), unit="sites"
        ),
        Effect(label=f"sites that surely help alone, of {n}", value=_surely(sites, "kl_gained_alone"), unit="sites"),
        Effect(
            label=f"sites where a random vector surely costs KL, of {n}",
            value=_surely(sites, "kl_random_costs"),
            unit="sites",
        ),
    ]
    found += [
        _explained(label, vectors, scales)
        for label, vectors in (("a bias", subject.biases), ("what training added to its start", _moved(subject)))
    ]
    best = min(
        ((factor, scores[f"times {factor}" if factor != 1 else "full"].kl_nats) for factor in (*FACTORS, 1.0)),
        key=lambda pair: pair[1],
    )
    found.append(Effect(label="factor of all biases with the lowest KL", value=best[0], unit="times"))
    return tuple(found)


def _moved(subject: Subject) -> dict[Site, Tensor]:
    return {s: b - subject.start[s] if s in subject.start else b for s, b in subject.biases.items()}


def _explained(label: str, vectors: Vectors, scales: Mapping[Site, Scale]) -> Effect:
    """Squared cosines with the mean errors; for random vectors they are Beta(1 / 2, (width - 1) / 2)."""
    squared = np.array([explain(vectors[site], scale.mean_error).cosine ** 2 for site, scale in scales.items()])
    widths = np.array([len(vectors[site]) for site in scales])
    chance = np.random.default_rng(0).beta(0.5, (widths - 1) / 2, size=(RESAMPLES, len(widths))).mean(axis=1)
    name = f"share of {label} that the mean error explains (squared cosine)"
    return Effect.of(name, mean(squared), "fraction", null_range(chance))


def _surely(rows: Iterable[Row], name: str) -> int:
    return sum(float(row[f"{name}_low"]) > 0 for row in rows)  # type: ignore[arg-type]


def _verdict(effects: tuple[Effect, ...], n_sites: int) -> str:
    def said(effect: Effect) -> str:
        assert effect.interval is not None
        low, high = effect.interval
        return "lowers the KL" if high < 0 else "raises the KL" if low > 0 else "changes the KL by nothing sure"

    full, random, on, off, removed, alone, *_ = effects
    return (
        f"together they {_plural(said(full))}, random vectors {_plural(said(random))}; the part along the mean error "
        f"alone {said(on)}, the part across it {said(off)}; of {n_sites} sites {removed.value:.0f} are surely missed "
        f"when removed, {alone.value:.0f} surely help alone"
    )


def _plural(verb: str) -> str:
    return verb.replace("lowers", "lower").replace("raises", "raise").replace("changes", "change")
