"""Tiny models of the families, and checkpoints of them with biases large enough to be seen in the logits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Tokenizer,
)

from tests import conftest
from tests.conftest import VOCABULARY, families, make_llama, sharpen, trials_of
from trainables.checkpoint import Checkpoint, write_checkpoint
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.trial import run_trial
from trainables.workbench import Workbench

# Some families have their special tokens beyond this vocabulary
SIZES = conftest.SIZES | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, PretrainedConfig] = {
    **families(SIZES),
    "gemma": GemmaConfig(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=8),
}
TOKENS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Exportable:
    """A checkpoint on disk and in memory, with the workbench of its model."""

    place: Path
    checkpoint: Checkpoint
    bench: Workbench

    def base(self) -> PreTrainedModel:
        """The base model as a user has it: loaded by stock transformers."""
        return AutoModelForCausalLM.from_pretrained(self.bench.materials.model.location).eval()

    def logits(self, tokens: Tensor = TOKENS) -> Tensor:
        """Logits of the trial's own sparsified and biased model."""
        model, meta = self.bench.model, self.checkpoint.meta
        biases = SponBiases(model, tuple(self.checkpoint.biases), meta.config.training.form)
        biases.load(self.checkpoint.biases)
        thresholds = self.bench.thresholds(meta.config.plan)
        with torch.no_grad(), sparsified(model, meta.config.plan, thresholds, biases):
            return model.network(tokens).logits


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a family's tiny model, by name."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = make_llama(tmp_path_factory.mktemp(name) / name)  # for its tokenizer
            torch.manual_seed(1)
            network = AutoModelForCausalLM.from_config(FAMILIES[name])
            for key, parameter in network.named_parameters():
                if key.endswith("bias"):
                    torch.nn.init.normal_(parameter)
            sharpen(network)
            network.save_pretrained(made[name])
            if name == "qwen2":  # transformers reads its tokenizer as byte-level pairs, whatever the file says
                letters = {letter: number for number, letter in enumerate("w0123456789\u0120")}
                Qwen2Tokenizer(vocab=letters, merges=[], unk_token="w").save_pretrained(made[name])
        return made[name]

    return make


@pytest.fixture
def make_export(
    tiny_raw: dict[str, object], family_dir: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Exportable]:
    """Call it with a family, and the plan's or the trial's settings where they matter."""

    def make(
        family: str = "tied-llama",
        modules: tuple[str, ...] = ("o_proj", "down_proj"),
        form: str = "output_bias",
        allocation: object = None,
        sparsity: float = 0.5,
        **plan: object,
    ) -> Exportable:
        some = {"name": "some", "layers": [0, 1], "modules": list(modules)}
        raw = tiny_raw | {
            "model": {"source": str(family_dir(family)), "dtype": "float32"},
            "plan": {"rule": "threshold"} | plan,
            "sparsity": [sparsity],
            "allocations": [allocation or some],
            "training": {"form": form, "batch_size": 8, "epochs": 1, "max_steps": 1},
        }
        (config,) = trials_of(raw)
        bench = Workbench(config.model, config.corpus, "cpu", open_test=True)
        trained = run_trial(bench, config)
        draw = torch.Generator().manual_seed(2)
        large = {site: torch.randn(vector.shape, generator=draw) for site, vector in trained.biases.items()}
        checkpoint = replace(trained, biases=large)
        place = tmp_path / "checkpoint"
        place.mkdir()
        write_checkpoint(checkpoint, place)
        return Exportable(place, checkpoint, bench)

    return make
