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
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    LlamaForCausalLM,
    PhiConfig,
    PretrainedConfig,
)

from search_spaces.config import CorpusConfig, ModelConfig
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site
from search_spaces.trial import TrialConfig
from tests.conftest import SIZES, families, make_llama, sharpen
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


def save_random(config: PretrainedConfig, directory: Path) -> Path:
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def refused(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(SponError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_projection_of_every_layer_is_a_site(family):
    shape = load(family).shape
    assert list(shape.sites) == [Site(layer, module) for layer in range(2) for module in MODULES]
    widths = {
        module: (shape.sites[Site(1, module)].in_features, shape.sites[Site(1, module)].out_features)
        for module in MODULES
    }
    assert widths["q_proj"] == widths["o_proj"] == (32, 32)
    assert widths["k_proj"] == widths["v_proj"] == (32, 16)
    assert widths["gate_proj"] == widths["up_proj"] == (32, 48)
    assert widths["down_proj"] == (48, 32)


def test_the_shape_without_weights_is_that_of_the_loaded_model(family):
    assert read_shape(find_model(ModelConfig(source=str(family)))) == load(family).shape


def test_the_shape_is_read_once(family, monkeypatch):
    source = find_model(ModelConfig(source=str(family)))
    first = read_shape(source)
    monkeypatch.setattr("trainables.model.resident._architecture", pytest.fail)
    assert read_shape(source) == first


def test_a_site_is_the_linear_layer_at_its_path(family):
    resident = load(family)
    assert resident.linear(Site(1, "down_proj")) is resident.network.model.layers[1].mlp.down_proj


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_the_head_times_the_final_hidden_states(family, dtype):
    resident = load(family, dtype)
    logits = resident.network(input_ids=TOKENS).logits
    torch.testing.assert_close(resident.hidden(TOKENS) @ resident.head.T, logits)


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


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(tiny_llama):
    network = load(tiny_llama).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_dtype_that_was_asked_for(tiny_llama, dtype):
    assert load(tiny_llama, dtype).head.dtype == getattr(torch, dtype)


def test_a_model_of_another_layout_is_refused_by_type(tmp_path):
    directory = save_random(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4), tmp_path / "gpt")
    assert "must be of the Llama layout" in (line := refused(lambda: load(directory)))
    assert "'gpt2'" in line
    assert refused(lambda: read_shape(find_model(ModelConfig(source=str(directory))))) == line


def test_a_head_with_soft_capping_is_refused_by_name(tmp_path):
    directory = save_random(Gemma2Config(**SIZES), tmp_path / "gemma")
    assert "has final_logit_softcapping" in refused(lambda: load(directory))


def test_a_head_with_a_multiplier_is_refused_by_name(tmp_path):
    directory = save_random(FalconH1Config(**SIZES, lm_head_multiplier=0.5), tmp_path / "falcon")
    assert "has lm_head_multiplier" in (line := refused(lambda: load(directory)))
    assert refused(lambda: read_shape(find_model(ModelConfig(source=str(directory))))) == line


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


def test_a_head_with_a_bias_is_refused(tmp_path):
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    directory = save_random(PhiConfig(**sizes), tmp_path / "phi")
    assert "has a bias" in refused(lambda: load(directory))


def test_a_directory_that_is_not_there_is_one_line():
    line = refused(lambda: find_model(ModelConfig(source="/not/there")))
    assert "must be a directory here or reachable" in line
    assert "'/not/there'" in line


def test_a_hub_model_that_is_not_here_while_offline_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "config.json of 'nobody/nothing' is neither" in refused(
        lambda: find_model(ModelConfig(source="nobody/nothing"))
    )


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


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(workbench, "find_materials", lambda *args: pytest.fail("read something"))
    line = refused(lambda: workbench.Workbench(ModelConfig(), CorpusConfig(), "cuda"))
    assert "CUDA is not available" in line


def test_a_gpu_that_is_not_there_is_refused_for_a_model_alone(monkeypatch, tiny_llama):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA is not available" in refused(lambda: load(tiny_llama, device="cuda"))


def fingerprint(directory: Path) -> str:
    return find_model(ModelConfig(source=str(directory))).fingerprint


def test_a_copy_of_a_model_has_its_fingerprint(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / tiny_llama.name)
    assert fingerprint(tmp_path / tiny_llama.name) == fingerprint(tiny_llama)


def test_one_other_weight_is_another_fingerprint(tmp_path):
    directory = make_llama(tmp_path / "model")
    before = fingerprint(directory)
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] += 1
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(directory) != before


def test_another_tokenizer_is_another_fingerprint(tmp_path):
    directory = make_llama(tmp_path / "model")
    before = fingerprint(directory)
    (directory / "tokenizer.json").write_text((directory / "tokenizer.json").read_text() + " ")
    assert fingerprint(directory) != before


@pytest.mark.parametrize("name", ["modeling_own.py", "qwen.tiktoken"])
def test_other_code_or_another_vocabulary_is_another_fingerprint(tmp_path, name):
    (tmp_path / name).write_text("before")
    before = fingerprint(tmp_path)
    (tmp_path / name).write_text("afterwards")
    assert fingerprint(tmp_path) != before


def test_a_directory_keeps_its_fingerprint(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "merges.txt", "tokenizer.model", "model.safetensors", "README.md"):
        (directory / name).write_text(name)
    assert fingerprint(directory) == "model@ba256f3c05254b30"


def test_one_other_byte_anywhere_in_large_weights_is_another_fingerprint(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.touch()
    os.truncate(weights, 2**25)
    before = fingerprint(tmp_path)
    with weights.open("r+b") as file:
        file.seek(2**24 + 2**16 + 5)  # what samples of 64 KiB at even distances leave out
        file.write(b"1")
    assert fingerprint(tmp_path) != before


def test_another_name_of_a_file_is_another_fingerprint(tmp_path):
    directory = make_llama(tmp_path / "model")
    before = fingerprint(directory)
    (directory / "tokenizer.json").rename(directory / "other.json")
    assert fingerprint(directory) != before


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
