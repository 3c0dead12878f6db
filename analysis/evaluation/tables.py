"""The tables of an evaluation: three models side by side, and their paired differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.evaluation.resident import Mode
from analysis.evaluation.stored import Scores, TaskScores, TextScores
from analysis.finding import Finding, Row, cells
from analysis.resampling import mean, ratio, statistic
from trainables.statistics import Array, Interval

LABELS: Mapping[Mode, str] = {"dense": "dense", "teal": "TEAL", "spon": "SPON"}
_PAIRS: Sequence[tuple[Mode, Mode]] = (("teal", "dense"), ("spon", "dense"), ("spon", "teal"))


def difference(one: Array, other: Array) -> Interval:
    """Mean paired difference over units, (units,) each, with an interval that has no end where no unit differs.

    The jackknife's would then be of no width, as if zero were known; all that is known is that it is rare to differ.
    """
    apart = one - other
    return mean(apart) if apart.any() else Interval(0.0, -np.inf, np.inf)


def tasks_finding(tasks: Sequence[TaskScores]) -> Finding:
    """A row a metric of a task."""
    rows, clear = [], dict.fromkeys(_PAIRS, 0)
    for scores in tasks:
        by_mode = {mode: _array(getattr(scores, mode)) for mode in LABELS}
        row: Row = {"task": scores.task, "metric": scores.metric, "items": len(scores.dense)}
        row |= {LABELS[mode]: float(by_mode[mode].mean()) for mode in LABELS}
        for one, other in _PAIRS:
            found = difference(by_mode[one], by_mode[other])
            row |= cells(f"{LABELS[one]} - {LABELS[other]}", found)
            clear[one, other] += found.low > 0 or found.high < 0
        rows.append(row)
    counts = ", ".join(f"{LABELS[one]} differs from {LABELS[other]} on {n}" for (one, other), n in clear.items())
    return Finding(
        analysis="tasks",
        title="Tasks",
        question="Do tasks see what sparsity takes, and what the biases give back?",
        null="Paired differences over the items of a task are zero; 95% jackknives over items, each by itself. Where "
        "no item differs there is no interval.",
        effects=(),
        verdict=f"of {len(rows)} metrics, clearly {counts}",
        rows=tuple(rows),
    )


def texts_finding(texts: Sequence[TextScores]) -> Finding:
    """A row a text and way to cut it."""
    rows, clear = [], []
    for scores in texts:
        dense, teal, spon = (_array(nll) for nll in (scores.dense_nll, scores.teal_nll, scores.spon_nll))
        teal_kl, spon_kl = _array(scores.teal_kl), _array(scores.spon_kl)
        row: Row = {
            "text": scores.text,
            "window": scores.cut,
            "units": len(dense),
            "tokens": len(dense) * scores.tokens,
        }
        row |= {
            f"{LABELS[m]} PPL": float(np.exp(nll.mean())) for m, nll in zip(LABELS, (dense, teal, spon), strict=True)
        }
        row |= {"TEAL KL": float(teal_kl.mean()), "SPON KL": float(spon_kl.mean())}
        back = ratio(teal_kl - spon_kl, teal_kl)
        row |= cells("KL recovered", back) | cells("PPL recovered", ppl_recovered(dense, teal, spon))
        row |= cells("TEAL - dense NLL", mean(teal - dense)) | cells("SPON - TEAL NLL", mean(spon - teal))
        rows.append(row)
        if back.low > 0:
            clear.append(f"{scores.text} ({scores.cut})")
    where = f"on {', '.join(clear)}" if clear else "nowhere"
    return Finding(
        analysis="texts",
        title="Texts",
        question="Do the biases repair the distribution on text unlike that which they were trained on?",
        null="None of the KL comes back; 95% jackknives over units, each by itself. Nats a token. No share is given of "
        "a damage to the perplexity that is not certain.",
        effects=(),
        verdict=f"the biases clearly take KL back {where}",
        rows=tuple(rows),
    )


def ppl_recovered(dense: Array, teal: Array, spon: Array) -> Interval:
    """Share of TEAL's damage to the perplexity that the biases repair; no number where that damage is not certain.

    Arguments are the mean NLL of each unit, (units,), under each model.
    """
    if mean(teal - dense).low <= 0:
        return Interval(np.nan, np.nan, np.nan)

    def figure(columns: list[Array]) -> Array:
        ppl = [np.exp(column.mean(axis=-1)) for column in columns]
        share: Array = (ppl[1] - ppl[2]) / (ppl[1] - ppl[0])
        return share

    return statistic(figure, [dense, teal, spon])


def _array(scores: Scores) -> Array:
    return np.array(scores, dtype=np.float64)
