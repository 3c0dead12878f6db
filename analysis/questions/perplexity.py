"""Why do perplexity and the distribution recover by different shares?

Sparsity changes the negative log-likelihood of a token y by log p(y) - log q(y), with p the dense model's distribution
and q the sparse one's. Its expectation under p is the KL. The remainder,

    misfit = log p(y) - log q(y) - KL(p || q),

is zero on average if the text is drawn from p. Where p does not fit the text, moving away from p can help as well as
hurt. The damage to the perplexity is then the KL plus a term of either sign, and a share of it can be anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import Units, mean, ratio, statistic
from analysis.subject import Mode, Subject
from trainables.statistics import Array, Interval

NAME = "perplexity"


@dataclass(frozen=True)
class Damage:
    """Loss of a sparse model against the dense one, nats per predicted token, (blocks,): nll = kl + misfit."""

    nll: Array
    kl: Array

    @property
    def misfit(self) -> Array:
        """The part of the NLL that the KL does not account for."""
        return self.nll - self.kl


def damage_of(nll: Array, dense_nll: Array, kl: Array) -> Damage:
    """Compute the damage of each block.

    Args:
        nll: (blocks, seq - 1) nats of each next token under the sparse model.
        dense_nll: the same under the dense model.
        kl: (blocks, seq) nats; the last position has no next token and is left out.
    """
    return Damage((nll - dense_nll).mean(axis=1), kl[:, :-1].mean(axis=1))


def find(subject: Subject) -> Finding:
    """Split the damage on the subject's text into KL and misfit."""
    scores = {mode: tuple(part.double().numpy() for part in pair) for mode, pair in subject.tokens.items()}
    dense = scores["dense"][0]
    damage: dict[Mode, Damage] = {m: damage_of(scores[m][0], dense, scores[m][1]) for m in ("teal", "spon", "random")}
    rows: list[Row] = []
    units = subject.units
    for mode in ("teal", "spon", "random"):
        row: Row = {"model": {"teal": "TEAL", "spon": "biases", "random": "random vectors"}[mode]}
        for part in ("nll", "kl", "misfit"):
            row |= cells(part, mean(getattr(damage[mode], part), units=units))
        rows.append(row)
    effects = _effects(damage, units)
    return Finding(
        analysis=NAME,
        title="KL against perplexity",
        question="Why do perplexity and the distribution recover by different shares?",
        null="Text drawn from the dense model. The misfit, which is the damage to the NLL beyond the KL, is then zero, "
        "and both recover alike. Intervals are jackknives over documents.",
        effects=effects,
        verdict=_verdict(effects),
        rows=tuple(rows),
    )


def _effects(damage: Mapping[Mode, Damage], units: Units) -> tuple[Effect, ...]:
    teal, spon = damage["teal"], damage["spon"]
    found = [
        Effect.of("TEAL's damage to the NLL", mean(teal.nll, units=units), "nats"),
        Effect.of("of which KL", mean(teal.kl, units=units), "nats"),
        Effect.of("of which misfit", mean(teal.misfit, units=units), "nats", (0.0, 0.0)),
        Effect.of("biases take back, NLL", mean(teal.nll - spon.nll, units=units), "nats"),
        Effect.of("biases take back, KL", mean(teal.kl - spon.kl, units=units), "nats"),
        Effect.of("biases take back, misfit", mean(teal.misfit - spon.misfit, units=units), "nats", (0.0, 0.0)),
        Effect.of("share of the KL recovered", ratio(teal.kl - spon.kl, teal.kl, units=units), "fraction"),
    ]
    if mean(teal.nll, units=units).low > 0:  # a share of no damage is meaningless
        share = ratio(teal.nll - spon.nll, teal.nll, units=units)
        found.append(Effect.of("share of the NLL's damage recovered", share, "fraction"))
        apart = _apart(teal, spon, units)
        found.append(Effect.of("the share of the NLL's minus that of the KL", apart, "fraction", (0, 0)))
    return tuple(found)


def _apart(teal: Damage, spon: Damage, units: Units) -> Interval:
    def figure(columns: list[Array]) -> Array:
        teal_nll, spon_nll, teal_kl, spon_kl = (column.sum(axis=-1) for column in columns)
        found: Array = spon_kl / teal_kl - spon_nll / teal_nll
        return found

    return statistic(figure, [teal.nll, spon.nll, teal.kl, spon.kl], units=units)


def _verdict(effects: tuple[Effect, ...]) -> str:
    nll, _, misfit, _, _, back, _, *shares = effects
    by = {1: "more than its KL", 0: "about its KL", -1: "less than its KL"}[misfit.sign]
    if nll.sign <= 0:
        return f"TEAL does not clearly raise the NLL (by {by}), so no share of its damage is given"
    then = {1: "undo some of the misfit", 0: "have no clear effect on the misfit", -1: "add to the misfit"}
    parts = [f"TEAL clearly raises the NLL, by {by}", f"the biases {then[back.sign]}"]
    if shares:
        than = {1: "clearly more", 0: "not clearly more or less", -1: "clearly less"}[shares[-1].sign]
        parts.append(f"they recover {than} of the NLL's damage than of the KL")
    return "; ".join(parts)
