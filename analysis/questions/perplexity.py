"""Why do perplexity and the distribution recover by different shares?

Sparsity changes the negative log-likelihood of a token y by log p(y) - log q(y), with p the dense model's distribution
and q the sparse one's. Its expectation under p is the KL. The remainder,

    misfit = log p(y) - log q(y) - KL(p || q),

is zero on average if the text is drawn from p. Where p does not fit the text, moving away from p can help as well as
hurt. The damage to the perplexity is then the KL plus a term of either sign, and a share of it can be anything.
"""

from collections.abc import Mapping

from analysis.finding import Effect, Finding, Row, cells
from analysis.resampling import Units, mean, ratio, ratios_apart
from analysis.subject import Mode, Subject
from trainables.statistics import Array

NAME = "perplexity"
_MODELS: dict[Mode, str] = {"teal": "TEAL", "spon": "biases", "random": "random vectors"}
_PARTS = {"nll": "NLL", "kl": "KL", "misfit": "misfit"}

Damage = Mapping[str, Array]
"""Loss of a sparse model against the dense one, nll = kl + misfit, nats per predicted token, (blocks,) each."""


def damage_of(nll: Array, dense_nll: Array, kl: Array) -> Damage:
    """Compute the damage of each block.

    Args:
        nll: (blocks, seq - 1) nats of each next token under the sparse model.
        dense_nll: the same under the dense model.
        kl: (blocks, seq) nats; the last position has no next token and is left out.
    """
    whole, part = (nll - dense_nll).mean(axis=1), kl[:, :-1].mean(axis=1)
    return {"nll": whole, "kl": part, "misfit": whole - part}


def find(subject: Subject) -> Finding:
    """Split the damage on the subject's text into KL and misfit."""
    scores = {mode: tuple(part.double().numpy() for part in pair) for mode, pair in subject.tokens.items()}
    damage = {mode: damage_of(scores[mode][0], scores["dense"][0], scores[mode][1]) for mode in _MODELS}
    rows: list[Row] = []
    for mode, name in _MODELS.items():
        row: Row = {"model": name}
        for part in _PARTS:
            row |= cells(part, mean(damage[mode][part], subject.units))
        rows.append(row)
    effects = _effects(damage["teal"], damage["spon"], subject.units)
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


def _effects(teal: Damage, spon: Damage, units: Units) -> tuple[Effect, ...]:
    damage = {part: mean(teal[part], units) for part in _PARTS}
    back = {part: teal[part] - spon[part] for part in _PARTS}
    found = [
        Effect.of("TEAL's damage to the NLL", damage["nll"], "nats"),
        Effect.of("of which KL", damage["kl"], "nats"),
        Effect.of("of which misfit", damage["misfit"], "nats", (0.0, 0.0)),
    ]
    for part, name in _PARTS.items():
        null = (0.0, 0.0) if part == "misfit" else None
        found.append(Effect.of(f"biases take back, {name}", mean(back[part], units), "nats", null))
    found.append(Effect.of("share of the KL recovered", ratio(back["kl"], teal["kl"], units), "fraction"))
    if damage["nll"].low > 0:  # a share of no damage is meaningless
        share = ratio(back["nll"], teal["nll"], units)
        found.append(Effect.of("share of the NLL's damage recovered", share, "fraction"))
        apart = ratios_apart((spon["kl"], teal["kl"]), (spon["nll"], teal["nll"]), units)
        found.append(Effect.of("the share of the NLL's minus that of the KL", apart, "fraction", (0, 0)))
    return tuple(found)


def _verdict(effects: tuple[Effect, ...]) -> str:
    nll, _, misfit, _, _, back, _, *shares = effects
    by = {1: "more than its KL", 0: "about its KL", -1: "less than its KL"}[misfit.sign]
    if nll.sign <= 0:
        return f"TEAL does not clearly raise the NLL (by {by}), so no share of its damage is given"
    then = {1: "undo some of the misfit", 0: "have no clear effect on the misfit", -1: "add to the misfit"}
    than = {1: "clearly more", 0: "not clearly more or less", -1: "clearly less"}[shares[-1].sign]
    return (
        f"TEAL clearly raises the NLL, by {by}; the biases {then[back.sign]}; "
        f"they recover {than} of the NLL's damage than of the KL"
    )
