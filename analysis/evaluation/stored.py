"""Stored scores of an evaluation, one for each item or piece of text. Every table is made from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from search_spaces.base import Config
from search_spaces.files import read_config
from search_spaces.trial import TrialConfig

EVALUATION = "evaluation.json"
"""File in a trial's folder of results, beside ``analysis.json``."""

Scores = tuple[float, ...]


def _check_paired(what: str, where: str, *scores: Scores) -> None:
    counts = [len(each) for each in scores]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"three models must score the same {what}, but got {counts} (at {where})")


class TaskScores(Config):
    """One metric of one task under the three models, one entry for each item, in the order of the task.

    Attributes:
        limit: maximum items of the task; None for all.
        fewshot: number of few-shot examples before each item.
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
        _check_paired("items", self.task, self.dense, self.teal, self.spon)
        return self


class TextScores(Config):
    """Scores of a text under the three models: one mean for each unit, in nats per token.

    A unit is a block, or the new tokens of a window.

    Attributes:
        text: its name.
        fingerprint: hash of the tokens that were read.
        cut: length of the windows and, where they overlap, their stride.
        tokens: scored tokens of each unit.
        dense_nll, teal_nll, spon_nll: negative log-likelihood.
        teal_kl, spon_kl: KL(dense || model).
    """

    text: str
    fingerprint: str
    cut: str
    tokens: int
    dense_nll: Scores
    teal_nll: Scores
    spon_nll: Scores
    teal_kl: Scores
    spon_kl: Scores

    @model_validator(mode="after")
    def _units_are_paired(self) -> "TextScores":
        scores = self.dense_nll, self.teal_nll, self.spon_nll, self.teal_kl, self.spon_kl
        _check_paired("text", self.text, *scores)
        return self


class Evaluation(Config):
    """The content of ``evaluation.json``.

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
    texts: tuple[TextScores, ...] = ()

    @classmethod
    def of(cls, config: TrialConfig) -> "Evaluation":
        """Make an empty evaluation of a trial."""
        return cls(name=config.name, identity=config.identity, allocation=config.allocation, plan=config.plan_label)

    def having(self, tasks: Iterable[TaskScores] = (), texts: Iterable[TextScores] = ()) -> "Evaluation":
        """Return a copy in which these scores replace older ones of the same tasks, or of the same texts and cuts."""
        new_tasks, new_texts = tuple(tasks), tuple(texts)
        names, cuts = {s.task for s in new_tasks}, {(s.text, s.cut) for s in new_texts}
        kept_tasks = (s for s in self.tasks if s.task not in names)
        kept_texts = (s for s in self.texts if (s.text, s.cut) not in cuts)
        return self.model_copy(update={"tasks": (*kept_tasks, *new_tasks), "texts": (*kept_texts, *new_texts)})


def read_evaluation(file: Path) -> Evaluation:
    """Read the file.

    Raises:
        SponError: if it is missing or has another schema.
    """
    return read_config(Evaluation, file, f"an evaluation must be the {file.name} of `analysis evaluate`")
