"""The tables of an evaluation: three models side by side, and their paired differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.evaluation.resident import Mode
from analysis.evaluation.stored import Scores, TaskScores
from analysis.finding import Finding, Row, cells
from analysis.resampling import mean
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
    rows, surely = [], dict.fromkeys(_PAIRS, 0)
    for scores in tasks:
        by_mode = {mode: _array(getattr(scores, mode)) for mode in LABELS}
        row: Row = {"task": scores.task, "metric": scores.metric, "items": len(scores.dense)}
        row |= {LABELS[mode]: float(by_mode[mode].mean()) for mode in LABELS}
        for one, other in _PAIRS:
            found = difference(by_mode[one], by_mode[other])
            row |= cells(f"{LABELS[one]} - {LABELS[other]}", found)
            surely[one, other] += found.low > 0 or found.high < 0
        rows.append(row)
    counts = ", ".join(f"{LABELS[one]} differs from {LABELS[other]} on {n}" for (one, other), n in surely.items())
    return Finding(
        analysis="tasks",
        title="Tasks",
        question="Do tasks see what sparsity takes, and what the biases give back?",
        null="Paired differences over the items of a task are zero; 95% jackknives over items, each by itself. Where "
        "no item differs there is no interval.",
        effects=(),
        verdict=f"of {len(rows)} metrics, surely {counts}",
        rows=tuple(rows),
    )


def _array(scores: Scores) -> Array:
    return np.array(scores, dtype=np.float64)
