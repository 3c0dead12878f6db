"""Tiny trained checkpoints under examination: five layers, so that depth can have a trend, and enough text for PCA."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from analysis.examine import QUESTIONS, Settings, subject_of
from analysis.finding import Finding
from analysis.subject import Subject
from tests.conftest import VOCABULARY, make_llama, trials_of
from trainables.checkpoint import Checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench

KINDS: dict[str, dict[str, object]] = {
    "topk": {},
    "threshold": {"plan": {"rule": "threshold", "tokens": "second_half"}, "allocations": ["HYBRID-OD"]},
    "input_vector": {
        "training": {
            "lr": 0.03,
            "batch_size": 4,
            "epochs": 2,
            "form": "input_vector",
            "init": "bias_correction",
        }
    },
}
"""Trials that differ in rule, tokens, sites, form and start, by name."""


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(words))


def with_levels(subject: Subject, levels: dict[str, float]) -> Subject:
    """The subject with other sites sparsified than its trial's."""
    return with_plan(subject, levels=levels)


def with_plan(subject: Subject, **changes: object) -> Subject:
    """The subject with another plan than its trial's."""
    checkpoint = subject.checkpoint
    plan = subject.config.plan.model_copy(update=changes)
    config = subject.config.model_copy(update={"plan": plan})
    meta = checkpoint.meta.model_copy(update={"config": config})
    return replace(subject, checkpoint=replace(checkpoint, meta=meta))


@pytest.fixture(scope="session")
def raw(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The tiny space on a model of five layers and on a longer text."""
    directory, draw = tmp_path_factory.mktemp("analysis"), random.Random(0)
    files = {}
    for split, documents in (("calibration", 24), ("validation", 24), ("test", 12)):
        file: Path = directory / f"{split}.txt"
        file.write_text("\n".join(sentence(draw, 40) for _ in range(documents)))
        files[split] = (str(file),)
    corpus = {
        "source": "files",
        "files": files,
        "block_size": 16,
        "blocks": {"calibration": 16, "validation": 48, "test": 12},
    }
    model = make_llama(directory / "model", num_hidden_layers=5)
    return tiny_space | {"model": {"source": str(model), "dtype": "float32"}, "corpus": corpus}


@pytest.fixture(scope="session")
def settings() -> Settings:
    draw = random.Random(1)
    names = ("math", "coding", "safety")
    return Settings(prompts={name: [sentence(draw, 4 + i % 4) for i in range(8)] for name in names})


@pytest.fixture(scope="session")
def checkpoint_of(raw: dict[str, object]) -> Callable[[str], Checkpoint]:
    """The trained checkpoint of each kind."""

    @cache
    def trained(kind: str) -> Checkpoint:
        trial = trials_of(raw | KINDS[kind])[0]
        return run_trial(Workbench(trial.model, trial.corpus, "cpu"), trial)

    return trained


@pytest.fixture(scope="session")
def subject_by(checkpoint_of: Callable[[str], Checkpoint], settings: Settings) -> Callable[[str], Subject]:
    """The checkpoint of each kind under examination, and the first one with changes.

    ``zero``: all biases are zero. ``one``: one biased site. ``outside``: biases where nothing is sparsified.
    """

    @cache
    def made(kind: str) -> Subject:
        if kind in KINDS:
            return subject_of(checkpoint_of(kind), settings, "cpu")
        subject = made("topk")
        if kind == "zero":
            zeros = {site: torch.zeros_like(bias) for site, bias in subject.biases.items()}
            return replace(subject, biases=zeros, random=zeros)
        if kind == "one":
            first, vector = next(iter(subject.biases.items()))
            return replace(subject, biases={first: vector}, random={first: subject.random[first]})
        assert kind == "outside"
        return with_levels(subject, {"2.q_proj": 0.6})

    return made


@pytest.fixture(scope="session")
def subject(subject_by: Callable[[str], Subject]) -> Subject:
    return subject_by("topk")


@pytest.fixture(scope="session")
def finding_of(subject_by: Callable[[str], Subject]) -> Callable[[str, str], Finding]:
    """The answer of a question, by name, on a kind of subject."""

    @cache
    def found(question: str, kind: str = "topk") -> Finding:
        return QUESTIONS[question](subject_by(kind))

    return found
