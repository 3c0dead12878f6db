"""A two-layer random Llama with a word tokenizer, and a corpus of random words: a whole sweep in seconds on a CPU."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported
os.environ["RAY_AUTH_MODE"] = "disabled"

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from search_spaces.config import SpaceConfig
from search_spaces.load import parse_space
from search_spaces.resolve import resolve_space
from search_spaces.trial import TrialConfig
from tests import warm
from tests.swept import swept
from trainables.workbench import Workbench, find_materials

__all__ = ["swept"]

torch.set_num_threads(1)

VOCABULARY = 64


def pytest_configure(config: pytest.Config) -> None:
    """All processes of xdist use one server of processes, which does nothing until the first one asks it."""
    if config.getoption("numprocesses", None):
        warm.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process of xdist has one left when the others have ended."""
    slowest = {item.path for item in items if item.get_closest_marker("slow")}
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: 0 if item.path in slowest else 1 if item.path in slow else 2)


SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def families(sizes: dict[str, int]) -> dict[str, PretrainedConfig]:
    """Families of the Llama layout that every part must take, of some sizes."""
    return {
        "tied-llama": LlamaConfig(**sizes, tie_word_embeddings=True),
        "untied-llama": LlamaConfig(**sizes, tie_word_embeddings=False),
        "mistral": MistralConfig(**sizes),
        "qwen2": Qwen2Config(**sizes),
        "qwen3": Qwen3Config(**sizes),
    }


def sharpen(model: PreTrainedModel) -> None:
    """Make a random model peaked, so that sparsity does damage, and one that a bias can repair.

    A direction that all embeddings share gives every activation a mean, and so what TEAL drops of it.
    """
    scales = {"embed_tokens": 12, "lm_head": 12, "down_proj": 36}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(next((scale for part, scale in scales.items() if part in name), 6))
        embeddings = model.get_input_embeddings().weight
        embeddings.add_(torch.randn(embeddings.shape[1]) * 0.5)


def make_llama(directory: Path, seed: int = 0, **overrides: object) -> Path:
    """Save a tiny random Llama and a tokenizer of the words w0 ... w63."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    config = LlamaConfig(
        **(sizes | {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True} | overrides)
    )
    model = LlamaForCausalLM(config)
    sharpen(model)
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(directory)
    return directory


def make_text(directory: Path) -> dict[str, tuple[str, ...]]:
    """Write a text file a split, a document a line; no two lines are the same."""
    directory.mkdir(exist_ok=True)
    draw = random.Random(0)
    files = {}
    for split, documents in (("calibration", 24), ("validation", 12), ("test", 12)):
        lines = [" ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(40)) for _ in range(documents)]
        (directory / f"{split}.txt").write_text("\n".join(lines))
        files[split] = (str(directory / f"{split}.txt"),)
    return files


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts that the word tokenizer of the tiny model knows."""
    draw = random.Random(1)
    file = tmp_path_factory.mktemp("prompts") / "prompts.yaml"
    lengths = range(5, 11)
    prompts = {kind: [" ".join(f"w{draw.randrange(64)}" for _ in range(n)) for n in lengths] for kind in ("one", "two")}
    file.write_text(yaml.safe_dump(prompts))
    return file


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests out of the user's cache; those marked ``model`` ask for it back."""
    os.environ["SPON_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_space(tiny_llama: Path, tiny_text: dict[str, tuple[str, ...]]) -> dict[str, object]:
    """A space on the tiny model, as YAML would give it."""
    return {
        "name": "tiny",
        "model": {"source": str(tiny_llama), "dtype": "float32"},
        "corpus": {
            "source": "files",
            "files": tiny_text,
            "block_size": 16,
            "blocks": {"calibration": 16, "validation": 12, "test": 12},
        },
        "plan": {"rule": "topk"},
        "sparsity": [0.6],
        "allocations": ["UNIF-ALL"],
        "training": {"lr": 0.03, "batch_size": 4, "epochs": 2},
    }


@pytest.fixture
def tiny_raw(tiny_space: dict[str, object]) -> dict[str, object]:
    """A copy of the space that a test may change."""
    return copy.deepcopy(tiny_space)


def edited(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of the values in a JSON file of a directory."""

    def edit(directory: Path) -> None:
        values = json.loads((directory / name).read_text())
        change(values)
        (directory / name).write_text(json.dumps(values))

    return edit


def trials_of(raw: dict[str, object]) -> list[TrialConfig]:
    """The resolved trials of a raw space."""
    space: SpaceConfig = parse_space(raw, "test")
    materials = find_materials(space.model, space.corpus)
    return resolve_space(space, materials.shape, materials.fingerprints)


@pytest.fixture
def tiny_trial(tiny_raw: dict[str, object]) -> TrialConfig:
    return trials_of(tiny_raw)[0]


@pytest.fixture
def tiny_bench(tiny_trial: TrialConfig) -> Workbench:
    return Workbench(tiny_trial.model, tiny_trial.corpus, "cpu")
