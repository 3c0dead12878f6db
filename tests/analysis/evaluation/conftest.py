"""A tiny checkpoint with biases large enough to be seen, and tasks of its model's words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from analysis.evaluation.resident import Resident, make_resident
from tests.conftest import make_llama, trials_of
from trainables.checkpoint import read_checkpoint, write_checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench

ITEMS = [
    {"text": "w5 w6 w7", "choices": ["w1 w2", "w3 w4 w5", "w9 w9"], "answer": 1},
    {"text": "w10 w11 w12 w13 w14", "choices": ["w20 w21", "w22 w23", "w24 w25"], "answer": 0},
    {"text": "w30 w31", "choices": ["w1", "w2", "w3"], "answer": 2},
    {"text": "w3 w44 w50 w8", "choices": ["w59 w60 w61", "w1 w2 w3", "w33 w34 w35"], "answer": 2},
]
TASK: dict[str, object] = {
    "task": "words",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


@pytest.fixture(scope="session", autouse=True)
def data_sets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the harness's copies of data out of the user's cache."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def place_of(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a checkpoint with a token policy."""
    model = make_llama(tmp_path_factory.mktemp("words") / "model", max_position_embeddings=64)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"bos_token": "w62", "eos_token": "w63"})  # they are no start of another word
    tokenizer.save_pretrained(model)
    made: dict[str, Path] = {}

    def make(policy: str) -> Path:
        if policy not in made:
            plan = {"rule": "threshold", "tokens": policy}
            raw = tiny_space | {
                "model": {"source": str(model), "dtype": "float32"},
                "plan": plan,
                "training": {"batch_size": 8, "epochs": 1, "max_steps": 1},
            }
            (config,) = trials_of(raw)
            trained = run_trial(Workbench(config.model, config.corpus, "cpu"), config)
            draw = torch.Generator().manual_seed(2)
            large = {site: torch.randn(vector.shape, generator=draw) for site, vector in trained.biases.items()}
            made[policy] = tmp_path_factory.mktemp(policy) / "checkpoint"
            made[policy].mkdir()
            write_checkpoint(replace(trained, biases=large), made[policy])
        return made[policy]

    return make


@pytest.fixture(scope="session")
def resident_of(place_of: Callable[[str], Path]) -> Callable[[str], Resident]:
    """A checkpoint with a token policy, on its model."""
    return lambda policy="all": make_resident(read_checkpoint(place_of(policy)))


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., str]:
    """Call it with what differs from ``TASK``, and with other items."""

    def write(items: object = ITEMS, **changes: object) -> str:
        raw = {key: value for key, value in (TASK | changes).items() if value is not None}
        (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
        (tmp_path / "words.yaml").write_text(yaml.safe_dump(raw))
        return str(tmp_path / "words.yaml")

    return write
