"""What an evaluation measured, on disk: a score an item or a block of text, from which every table is made."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from search_spaces.files import read_config
from search_spaces.schema import TrialConfig
from search_spaces.sources import Config

EVALUATION = "evaluation.json"
"""File of a trial's folder of results, beside ``analysis.json``."""

Scores = tuple[float, ...]


class TaskScores(Config):
    """One metric of one task under the three models, an entry an item, in the order of the task.

    Attributes:
        limit: items of the task at most; None for all.
        fewshot: examples that each item shows first.
    """

    task: str
    metric: str
    limit: int | None
    fewshot: int
    dense: Scores
    teal: Scores
    spon: Scores

    @model_validator(mode="after")
    def _items_are_paired(self) -> "TaskScores":
        counts = [len(self.dense), len(self.teal), len(self.spon)]
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError(f"three models must score the same items, but got {counts} (at {self.task})")
        return self


class Evaluation(Config):
    """The whole of ``evaluation.json``.

    Attributes:
        name, identity: of the trial.
        plan: the sparsity plan's label.
    """

    schema_version: Literal[1] = 1
    name: str
    identity: str
    allocation: str
    plan: str
    tasks: tuple[TaskScores, ...] = ()

    @classmethod
    def of(cls, config: TrialConfig) -> "Evaluation":
        """Of a trial, with nothing measured yet."""
        return cls(name=config.name, identity=config.identity, allocation=config.allocation, plan=config.plan.label)

    def having(self, tasks: Iterable[TaskScores]) -> "Evaluation":
        """The same with these scores in the place of older ones of the same tasks."""
        new = tuple(tasks)
        names = {scores.task for scores in new}
        return self.model_copy(update={"tasks": (*(s for s in self.tasks if s.task not in names), *new)})


def write_evaluation(evaluation: Evaluation, file: Path) -> None:
    """Write the file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    aside.write_text(evaluation.model_dump_json(indent=1))
    aside.replace(file)


def read_evaluation(file: Path) -> Evaluation:
    """Read the file.

    Raises:
        SponError: if it is missing or of another schema.
    """
    return read_config(Evaluation, file, f"an evaluation must be the {file.name} of `analysis evaluate`")
