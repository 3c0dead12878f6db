"""Finding and loading models: families of the Llama layout run, all else is refused in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import httpx
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    LlamaForCausalLM,
    PhiConfig,
)

from search_spaces.config import CorpusConfig, ModelConfig
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site
from search_spaces.trial import TrialConfig
from tests.conftest import SIZES, families, sharpen
from trainables import workbench
from trainables.model import resident as model
from trainables.model.resident import ResidentModel, find_model, load_model, load_tokenizer, read_shape
from trainables.sparse import sparsified
from trainables.spon import SponBiases

FAMILIES = families(SIZES)
TOKENS = torch.arange(24).view(2, 12)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model of each family."""
    directory = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(FAMILIES[request.param])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    sharpen(network)
    network.save_pretrained(directory)
    return directory


def load(directory: Path, dtype: str = "float32", device: str = "cpu") -> ResidentModel:
    return load_model(find_model(ModelConfig(source=str(directory))), dtype, device)


def refused(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(SponError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_projection_of_every_layer_is_a_site(family, monkeypatch):
    resident, source = load(family), find_model(ModelConfig(source=str(family)))
    shape = resident.shape
    assert read_shape(source) == shape  # without reading weights
    monkeypatch.setattr(model, "_architecture", pytest.fail)
    assert read_shape(source) == shape  # from the cache
    assert resident.linear(Site(1, "down_proj")) is resident.network.model.layers[1].mlp.down_proj
    assert list(shape.sites) == [Site(layer, module) for layer in range(2) for module in MODULES]
    widths = {
        module: (shape.sites[Site(1, module)].in_features, shape.sites[Site(1, module)].out_features)
        for module in MODULES
    }
    assert widths["q_proj"] == widths["o_proj"] == (32, 32)
    assert widths["k_proj"] == widths["v_proj"] == (32, 16)
    assert widths["gate_proj"] == widths["up_proj"] == (32, 48)
    assert widths["down_proj"] == (48, 32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_head_times_the_final_hidden_states(family, dtype):
    resident = load(family, dtype)
    logits = resident.network(input_ids=TOKENS).logits
    torch.testing.assert_close(resident.hidden(TOKENS) @ resident.head.T, logits)
    assert resident.head.dtype == getattr(torch, dtype)
    assert not resident.network.training
    assert not any(parameter.requires_grad for parameter in resident.network.parameters())


def test_every_family_runs_sparse_and_biased_and_dense_again(family, tiny_trial: TrialConfig):
    resident = load(family)
    sites = tuple(resident.shape.sites)
    plan = tiny_trial.plan.model_copy(update={"levels": {str(site): 0.5 for site in sites}})
    biases = SponBiases(resident, sites, "output_bias")
    with torch.no_grad():
        for vector in biases.parameters():
            vector.fill_(0.1)
        dense = resident.hidden(TOKENS)
        with sparsified(resident, plan, {}):
            sparse = resident.hidden(TOKENS)
        with sparsified(resident, plan, {}, biases):
            both = resident.hidden(TOKENS)
        again = resident.hidden(TOKENS)
    assert not torch.equal(sparse, dense)
    assert not torch.equal(both, sparse)
    assert torch.equal(again, dense)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), "of type 'gpt2' is not"),
        (Gemma2Config(**SIZES), "has final_logit_softcapping"),
        (FalconH1Config(**SIZES, lm_head_multiplier=0.5), "has lm_head_multiplier"),
        (PhiConfig(**{key: value for key, value in SIZES.items() if key != "head_dim"}), "has a bias"),
    ],
    ids=["gpt2", "gemma2", "falcon-h1", "phi"],
)
def test_another_layout_or_head_is_refused_with_or_without_weights(tmp_path, config, said):
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert said in (line := refused(lambda: load(tmp_path)))
    assert refused(lambda: read_shape(find_model(ModelConfig(source=str(tmp_path))))) == line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "change",
    [lambda x: 0.5 * x, lambda x: x + 1, lambda x: x.max() * torch.tanh(x / x.max()), lambda x: x[..., 1:]],
    ids=["scaled", "shifted", "capped", "cut"],
)
def test_logits_that_are_not_the_head_times_the_hidden_states_are_refused(tiny_llama, monkeypatch, change, dtype):
    forward = LlamaForCausalLM.forward

    def changed(self: LlamaForCausalLM, **inputs: object) -> object:
        output = forward(self, **inputs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", changed)
    assert "are not its output embedding times its last hidden states" in refused(lambda: load(tiny_llama, dtype))


@pytest.mark.parametrize("source", ["nobody/nothing", "/not/there"])
def test_a_model_that_is_not_here_while_offline_is_one_line(monkeypatch, source):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused(lambda: find_model(ModelConfig(source=source)))
    assert "must be a directory here or reachable" in line
    assert f"config.json of {source!r} is neither" in line


@pytest.mark.parametrize(
    ("kind", "said"), [(GatedRepoError, "is gated: accept its licence"), (RepositoryNotFoundError, "is neither")]
)
def test_a_hub_model_that_is_closed_or_unknown_says_what_to_do(monkeypatch, kind, said):
    def download(*args: object, **kwargs: object) -> str:
        raise kind("a\nlong\nstory", response=httpx.Response(401, request=httpx.Request("GET", "http://hub")))

    monkeypatch.setattr(model, "hf_hub_download", download)
    line = refused(lambda: find_model(ModelConfig(source="some/model")))
    assert said in line
    assert "hf auth login" in line


def test_a_hub_model_is_known_by_its_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(model, "hf_hub_download", lambda *args, **kwargs: str(tmp_path / "abc123" / "config.json"))
    source = find_model(ModelConfig(source="some/model", revision="main"))
    assert (source.revision, source.fingerprint) == ("abc123", "some/model@abc123")


def test_a_revision_of_a_local_model_is_refused(tiny_llama):
    line = refused(lambda: find_model(ModelConfig(source=str(tiny_llama), revision="main")))
    assert "a local model must have no revision, but got 'main'" in line


def truncate(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def set_in_config(directory: Path, **values: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "must load from"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no weights"), "must load from"),
        (lambda d: (d / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda d: (d / "config.json").unlink(), "must load from"),
        (lambda d: (d / "config.json").write_text("{"), "not a valid JSON"),
        (lambda d: set_in_config(d, model_type="new"), "model type `new`"),
        (lambda d: set_in_config(d, intermediate_size=64), "must load from"),
        (lambda d: set_in_config(d, num_hidden_layers=3), "must hold every weight, but model.layers.2"),
        (lambda d: set_in_config(d, tie_word_embeddings=False), "must hold every weight, but lm_head.weight"),
    ],
)
def test_a_spoilt_model_is_one_line(tiny_llama, tmp_path, spoil, said):
    shutil.copytree(tiny_llama, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    line = refused(lambda: load(tmp_path / "spoilt"))
    assert said in line
    assert "(at model.source)" in line


def test_a_missing_tokenizer_is_one_line(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    assert "must load from" in refused(lambda: load_tokenizer(find_model(ModelConfig(source=str(tmp_path / "mute")))))


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read(monkeypatch, tiny_llama):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA is not available" in refused(lambda: load(tiny_llama, device="cuda"))
    monkeypatch.setattr(workbench, "find_materials", lambda *args: pytest.fail("read something"))
    line = refused(lambda: workbench.Workbench(ModelConfig(), CorpusConfig(), "cuda"))
    assert "CUDA is not available" in line


def fingerprint(directory: Path) -> str:
    return find_model(ModelConfig(source=str(directory))).fingerprint


def another_byte(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\0other")


@pytest.mark.parametrize(
    "change",
    [
        another_byte,
        lambda d: (d / "tokenizer.json").write_text((d / "tokenizer.json").read_text() + " "),
        lambda d: (d / "tokenizer.json").rename(d / "other.json"),
        lambda d: (d / "modeling_own.py").write_text("code"),
        lambda d: (d / "qwen.tiktoken").write_text("words"),
    ],
    ids=["weights", "tokenizer", "name", "code", "vocabulary"],
)
def test_a_copy_of_a_model_has_its_fingerprint_until_a_file_changes(tiny_llama, tmp_path, change):
    copy = shutil.copytree(tiny_llama, tmp_path / tiny_llama.name)
    assert fingerprint(copy) == fingerprint(tiny_llama)
    change(copy)
    assert fingerprint(copy) != fingerprint(tiny_llama)


def test_a_directory_keeps_its_fingerprint(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "merges.txt", "tokenizer.model", "model.safetensors", "README.md"):
        (directory / name).write_text(name)
    assert fingerprint(directory) == "model@ba256f3c05254b30"


def test_a_model_that_is_not_dense_is_noticed(tiny_bench, tiny_trial):
    with (
        sparsified(tiny_bench.model, tiny_trial.plan, {}),
        pytest.raises(RuntimeError, match=r"0\.down_proj is changed"),
    ):
        tiny_bench.model.check_dense()
    no_levels = tiny_trial.plan.model_copy(update={"levels": {}})
    with (
        sparsified(tiny_bench.model, no_levels, {}, SponBiases(tiny_bench.model, (Site(1, "o_proj"),), "output_bias")),
        pytest.raises(RuntimeError, match=r"1\.o_proj is changed"),
    ):
        tiny_bench.model.check_dense()
    tiny_bench.model.check_dense()
