"""The findings of an analysis: question, null, effects with intervals, and a verdict that the data decides.

Figures, tables and the report come from findings on disk and from nothing else.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from search_spaces.base import Config
from search_spaces.files import read_config

if TYPE_CHECKING:  # its import loads torch, which reading findings does not need
    from trainables.statistics import Interval

ANALYSIS, COMPARED = "analysis.json", "comparison.json"
"""Files in a directory of results: the first in the folder of each trial, the second in the directory itself."""

Cell = str | int | float | bool | None
Row = dict[str, Cell]


class Effect(Config):
    """One figure, with its value if there were nothing to find.

    Attributes:
        interval: 95% interval; None if the figure is exact, or comes from a single unit and could be anything.
        null: 95% range of the figure under the null; None if the null is a fixed value in the question.
        unit: such as ``nats`` or ``fraction``.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    null: tuple[float, float] | None = None
    unit: str = ""

    @classmethod
    def of(cls, label: str, interval: "Interval", unit: str = "", null: tuple[float, float] | None = None) -> "Effect":
        """Make an effect from a figure with an interval, and drop an infinite interval."""
        ends = (interval.low, interval.high) if math.isfinite(interval.low) else None
        return cls(label=label, value=interval.value, interval=ends, null=null, unit=unit)

    @classmethod
    def count(cls, label: str, found: Iterable[bool]) -> "Effect":
        """Count the sites that stand out. By chance none does."""
        return cls(label=label, value=sum(found), null=(0, 0), unit="sites")

    @property
    def sign(self) -> int:
        """1 if the interval is above zero, -1 if below, 0 if it contains zero or is infinite."""
        low, high = self.interval or (-math.inf, math.inf)
        return int(low > 0) - int(high < 0)

    @property
    def side(self) -> int:
        """1 if the value is above the null's range, -1 if below, 0 if within it."""
        low, high = self.null or (-math.inf, math.inf)
        return int(self.value > high) - int(self.value < low)


def cells(name: str, interval: "Interval") -> Row:
    """Return a figure and the ends of its interval as three cells of a row; None for values that are not finite."""
    named = ((name, interval.value), (f"{name}_low", interval.low), (f"{name}_high", interval.high))
    return {key: figure if math.isfinite(figure) else None for key, figure in named}


def number_in(row: Row, name: str) -> float:
    """Return a cell that holds a number."""
    return float(row[name])  # type: ignore[arg-type]


class Finding(Config):
    """The answer of one analysis.

    Attributes:
        analysis: name in the registry.
        null: what would be seen if there were no effect, and how that was determined.
        rows: the table behind the effects, one row for each site, category or other thing measured.
    """

    analysis: str
    title: str
    question: str
    null: str
    effects: tuple[Effect, ...]
    verdict: str
    rows: tuple[Row, ...]


class Examined(Config):
    """The trial and text of an examination.

    Attributes:
        name: of the trial.
        identity: hash of the trial's resolved config.
        model, corpus: their sources.
        plan: the sparsity plan's label.
        split, n_blocks: text that was read.
        text: hash of that text and of the prompts.
        metrics: of the trial, from its checkpoint: validation text, with units in the names.
        commit: of the code that trained it.
    """

    name: str
    identity: str
    model: str = ""
    corpus: str = ""
    allocation: str
    plan: str
    seed: int
    split: str
    n_blocks: int
    text: str
    metrics: dict[str, float] = Field(default_factory=dict)
    commit: str = ""

    @property
    def blocks(self) -> str:
        """The text that was read, in words."""
        return f"{self.n_blocks} {self.split} blocks of {self.corpus}"


class Analysis(Config):
    """The content of ``analysis.json``, all findings on one checkpoint, or of ``comparison.json``, on several."""

    schema_version: Literal[1] = 1
    subjects: tuple[Examined, ...] = Field(min_length=1)
    findings: tuple[Finding, ...]

    def having(self, findings: Iterable[Finding]) -> "Analysis":
        """Return a copy in which these findings replace older ones of the same name."""
        by_name = {f.analysis: f for f in (*self.findings, *findings)}
        return self.model_copy(update={"findings": tuple(by_name.values())})


def read_analysis(file: Path) -> Analysis:
    """Read the file.

    Raises:
        SponError: if it is missing or has another schema.
    """
    return read_config(Analysis, file, f"an analysis must be the {file.name} of `analysis interpret`")
