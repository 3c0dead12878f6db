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
    """Return the mean paired difference over units, (units,) each. If no unit differs, its interval is infinite.

    The jackknife interval would then have zero width, as if a difference of zero were certain. All that the data shows
    is that differences are rare.
    """
    apart = one - other
    return mean(apart) if apart.any() else Interval(0.0, -np.inf, np.inf)


def tasks_finding(tasks: Sequence[TaskScores]) -> Finding:
    """Make the table of tasks, one row for each metric of a task."""
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
        question="Do tasks show the damage of sparsity and its repair by the biases?",
        null="Paired differences over the items of a task are zero. Intervals are 95% jackknives over items, of "
        "each figure by itself. There is no interval where no item differs.",
        effects=(),
        verdict=f"of {len(rows)} metrics, clearly {counts}",
        rows=tuple(rows),
    )


def texts_finding(texts: Sequence[TextScores]) -> Finding:
    """Make the table of texts, one row for each text and cut."""
    rows, clear = [], []
    for scores in texts:
        nll = dense, teal, spon = [_array(part) for part in (scores.dense_nll, scores.teal_nll, scores.spon_nll)]
        teal_kl, spon_kl = _array(scores.teal_kl), _array(scores.spon_kl)
        row: Row = {"text": scores.text, "window": scores.cut, "units": len(dense)}
        row |= {"tokens": len(dense) * scores.tokens}
        row |= {f"{label} PPL": float(np.exp(part.mean())) for label, part in zip(LABELS.values(), nll, strict=True)}
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
        question="Do the biases repair the distribution on text unlike their training text?",
        null="The biases recover none of the KL. Intervals are 95% jackknives over units, of each figure by itself. "
        "KL and NLL are in nats per token. No share of the perplexity is given where the damage to it is not certain.",
        effects=(),
        verdict=f"the biases clearly recover KL {where}",
        rows=tuple(rows),
    )


def ppl_recovered(dense: Array, teal: Array, spon: Array) -> Interval:
    """Return the share of TEAL's perplexity damage that the biases repair; NaN if that damage is not certain.

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
