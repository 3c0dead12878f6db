"""The comparison as text and as LaTeX: every figure of the study at the digits that it prints, beside our own."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.study.compare import StudyComparison
from analysis.study.compared import Compared
from analysis.study.perplexity import Frontier, Sweep


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        read: the cell of a row; a ``Compared`` becomes two columns, ours and the study's.
        spec: format of numbers.
    """

    head: str
    read: Callable[[Any], Compared | float | str | None]
    spec: str = ""


SWEEP = (
    Column("allocation", lambda row: row.allocation),
    Column("plan", lambda row: row.plan),
    Column("layers", lambda row: row.layers, "d"),
    Column("params", lambda row: row.params, ",.0f"),
    Column("PPL", lambda row: row.ppl, ".2f"),
    Column("vs TEAL %", lambda row: row.vs_teal_pct, "+.2f"),
    Column("vs dense %", lambda row: row.vs_dense_pct, "+.1f"),
    Column("PPL rec.", lambda row: row.recovered, ".1%"),
)
BIASES = (
    Column("site", lambda row: row.site),
    Column("rank", lambda row: row.rank, ".0f"),
    Column("norm", lambda row: row.norm, ".3f"),
    Column("sd", lambda row: row.sd, ".4f"),
    Column("max abs", lambda row: row.max_abs, ".4f"),
    Column("positive", lambda row: row.positive_fraction, ".3f"),
    Column("kurtosis, sd^4+1e-12", lambda row: row.kurtosis, ".2f"),
    Column("corrected", lambda row: row.excess_kurtosis, ".2f"),
)
PAIRS = (
    Column("site", lambda row: row.site),
    Column("cosine", lambda row: row.cosine, ".4f"),
    Column("L2", lambda row: row.l2, ".4f"),
)
ALIGNMENTS = (
    Column("site", lambda row: row.site),
    Column("max |cos|", lambda row: row.max_alignment, ".3f"),
    Column("PC", lambda row: row.best, ".0f"),
    Column("chance p", lambda row: row.p_value, ".3f"),
)
CATEGORIES = (
    Column("category", lambda row: row.category),
    Column("mean L2", lambda row: row.l2, ".3f"),
    Column("mean CKA", lambda row: row.cka, ".4f"),
)
SHIFTS = (
    Column("site", lambda row: row.site),
    Column("TEAL", lambda row: row.teal, ".4f"),
    Column("SPON", lambda row: row.spon, ".4f"),
    Column("recovery %", lambda row: row.recovery_pct, "+.2f"),
)


def frame(rows: Iterable[object], columns: Sequence[Column]) -> pd.DataFrame:
    """A table of strings, a row an object."""
    cells = [[text for column in columns for text in _cells(column.read(row), column.spec)] for row in rows]
    first = next(iter(rows))
    heads = [h for c in columns for h in ((c.head, "study") if isinstance(c.read(first), Compared) else (c.head,))]
    return pd.DataFrame(cells, columns=heads)


def _cells(value: Compared | float | str | None, spec: str) -> tuple[str, ...]:
    if isinstance(value, Compared):
        return format(value.ours, spec), "--" if value.study is None else format(value.study, spec)
    return ("--",) if value is None else (format(value, spec),)


def agreement(rows: Sequence[object], columns: Sequence[Column]) -> str:
    """How many rows of each compared column read the same at the study's digits, such as ``norm 8/8``."""
    said = []
    for column in columns:
        pairs = [value for row in rows if isinstance(value := column.read(row), Compared) and value.study is not None]
        if pairs:
            said.append(f"{column.head} {sum(pair.agrees(column.spec) for pair in pairs)}/{len(pairs)}")
    return "equal at these digits: " + ", ".join(said)


def as_text(comparison: StudyComparison) -> str:
    """Every table, each under a line that says what it is and what comes of it."""
    c, al, sh = comparison, comparison.alignments, comparison.shifts
    analysed = c.biases[c.analysed]
    parts = [
        f"{c.model}, {c.run_id}: each figure as it comes out here, and after it the study's\n",
        *_table("sweep, test text", c.sweep.rows, SWEEP),
        *_baselines(c.sweep),
        "",
        *_recovered(c.sweep),
        "",
        *(line for frontier in c.sweep.frontiers for line in _frontier(frontier)),
        "",
        *_table(f"biases of {c.analysed}", analysed, BIASES),
        f"kurtosis over sd^4 + 1e-12: at most {_largest(r.kurtosis for r in analysed):.1e} from the study's",
        "",
        *(line for name, rows in c.biases.items() if name != c.analysed for line in _unseen(name, rows)),
        *_table(f"{c.analysed} and {c.other}", c.pairs, PAIRS),
        f"mean cosine {c.mean_cosine.ours:.4f}, study {c.mean_cosine.study:.4f}\n",
        *_table(
            f"PCA alignment, {al.components} components (PC counted from 0), width {al.width}", al.rows, ALIGNMENTS
        ),
        f"a random direction: mean {al.chance_mean:.3f}, 95th percentile {al.chance_high:.3f} ({al.draws:,} draws); "
        f"the best aligned of {len(al.rows)} sites: p = {al.p_value:.2f}, corrected for their number\n",
        *_table("dense against SPON by prompt category, means of the study's sites", c.categories, CATEGORIES),
        "",
        "hidden-state shift against dense (the study's; the vectors alone cannot give it)",
        frame(sh.rows, SHIFTS).to_string(index=False),
        f"mean shift TEAL {_both(sh.mean_teal, '.4f')}, SPON {_both(sh.mean_spon, '.4f')}; mean of the percentages "
        f"{_both(sh.mean_recovery_pct, '+.2f')}; percentage of the means {sh.recovery_of_means_pct:+.2f}",
    ]
    return "\n".join(parts)


def _table(title: str, rows: Sequence[object], columns: Sequence[Column]) -> tuple[str, str, str]:
    return title, frame(rows, columns).to_string(index=False), agreement(rows, columns)


def _unseen(name: str, rows: Sequence[object]) -> tuple[str, str]:
    """A checkpoint of whose biases the study gives no statistics."""
    return f"biases of {name} (the study gives no figures)", frame(rows, _OURS).to_string(index=False) + "\n"


def _ours(column: Column) -> Column:
    def read(row: object) -> float | str | None:
        value = column.read(row)
        return value.ours if isinstance(value, Compared) else value

    return column._replace(read=read)


_OURS = tuple(_ours(column) for column in BIASES if not column.head.startswith("kurtosis"))


def _both(pair: Compared, spec: str) -> str:
    return f"{pair.ours:{spec}} (study {'--' if pair.study is None else format(pair.study, spec)})"


def _largest(pairs: Iterable[Compared]) -> float:
    return max(abs(pair.ours - pair.study) for pair in pairs if pair.study is not None)


def _baselines(sweep: Sweep) -> list[str]:
    def line(ppl: float, derived: bool, plan: str | None) -> str:
        return f"{'dense' if plan is None else 'TEAL on ' + plan} {ppl:.2f}{' (derived)' if derived else ''}"

    lines = ["baselines: " + "; ".join(line(b.ppl, b.derived, b.plan) for b in sweep.baselines)]
    step, derived = sweep.nll_step_nats, [b.nll_steps for b in sweep.baselines if b.derived and b.nll_steps is not None]
    if step is None:
        lines.append("the stored losses have no common step: nothing checks the derived baselines")
    else:
        off = max(abs(steps - round(steps)) for steps in derived)
        lines.append(
            f"every stored total loss is a multiple of {step} nats; the derived ones are at most {off:.1e} of one off"
        )
    return lines


def _recovered(sweep: Sweep) -> list[str]:
    """Damage recovered by the best run of each plan; of KL the study stored nothing."""
    rows = [
        (
            row.plan,
            f"{sweep.teal_ppl(row.plan):.2f}",
            f"{row.ppl.ours:.2f} ({row.allocation})",
            f"{sweep.dense_ppl:.2f}",
            "no damage" if row.recovered is None else f"{row.recovered:.1%}",
        )
        for row in sweep.best()
    ]
    table = pd.DataFrame(rows, columns=["plan", "TEAL PPL", "SPON PPL", "dense PPL", "PPL recovered"])
    return ["damage recovered, best of each plan, against TEAL alone on the same modules", table.to_string(index=False)]


def _frontier(frontier: Frontier) -> list[str]:
    lines = [f"Pareto sets at {frontier.sparsity:.0%} sparsity"]
    lines += [f"  {plan}: {', '.join(names)}" for plan, names in frontier.by_plan.items()]
    if frontier.study is None:
        return [*lines, "  the study gives none"]
    lines.append(f"  the study, over all plans: {', '.join(frontier.study)}")
    lines.append(f"  over all plans, each with its own TEAL: {', '.join(frontier.pooled)}")
    lines += [
        f"  {it.allocation} (PPL {it.ppl:.2f}, {it.params:,} params) is on the study's list although dominated by "
        f"{' and '.join(it.by)}"
        for it in frontier.dominated
    ]
    return lines


def as_latex(comparison: StudyComparison) -> str:
    """The sweep table and the bias table, our figures."""
    c = comparison
    sweep = frame(c.sweep.rows, [_ours(column) for column in SWEEP])
    biases = frame(c.biases[c.analysed], [_ours(column) for column in BIASES])
    biases = biases.rename(columns={BIASES[-2].head: "kurtosis (study)", "corrected": "kurtosis"})
    tables = (
        (sweep, f"Sweep of {c.run_id}, {c.model}. PPL rec.: share of TEAL's damage that is repaired", "study-sweep"),
        (biases, f"Biases of {c.analysed}", "study-biases"),
    )
    return "\n".join(
        table.to_latex(index=False, escape=True, caption=_escaped(caption), label=f"tab:{label}")
        for table, caption, label in tables
    )


def _escaped(text: str) -> str:
    """Plain text for a LaTeX caption, which pandas does not escape."""
    return text.replace("_", r"\_").replace("%", r"\%")
