"""The runtime of an export: the numbers of the trial, strictly on its own model, with a KV cache and without."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from analysis.export import load
from analysis.export.load import BIASES, CONFIG, load_spon
from analysis.export.write import export
from tests.analysis.export.conftest import FAMILIES, SIZES, TOKENS, Exportable
from tests.conftest import edited
from trainables import teal

MakeExport = Callable[..., Exportable]


@pytest.fixture
def adapter(make_export: MakeExport, tmp_path: Path) -> tuple[Exportable, Path]:
    trial = make_export()
    export(trial.place, tmp_path / "adapter")
    return trial, tmp_path / "adapter"


def logits_of(model: PreTrainedModel, tokens: Tensor = TOKENS, **options: object) -> Tensor:
    with torch.no_grad():
        return model(tokens, **options).logits


def step_by_step(model: PreTrainedModel, tokens: Tensor, prefill: int) -> Tensor:
    """Logits of all positions: a prefill in one call, then one token at a time through the KV cache."""
    with torch.no_grad():
        out = model(tokens[:, :prefill], use_cache=True)
        found = [out.logits]
        for at in range(prefill, tokens.shape[1]):
            out = model(tokens[:, at : at + 1], past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_the_sparsifiers_are_those_of_a_trial(dtype, sparsity):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 40, generator=generator).to(dtype)  # 40 * (1 - 0.9) is a little under 4
    x[0, 0, :30] = 0.5  # ties
    assert torch.equal(load.keep_largest(x, sparsity), teal.keep_largest(x, sparsity))
    for threshold in (0.5, 0.33, sparsity):
        assert torch.equal(load.keep_above(x, threshold), teal.keep_above(x, threshold))


def test_the_runtime_imports_what_its_users_have():
    tree = ast.walk(ast.parse(Path(load.__file__).read_text()))
    names = [
        n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in tree if "Import" in type(n).__name__
    ]
    packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert packages == {"torch", "transformers", "safetensors"}


TRIALS = {
    **{f"{family}, {rule}": {"family": family, "rule": rule} for family in FAMILIES for rule in ("topk", "threshold")},
    **{f"second half, {rule}": {"rule": rule, "tokens": "second_half"} for rule in ("topk", "threshold")},
}


@pytest.mark.parametrize("settings", TRIALS)
def test_an_adapter_gives_the_logits_of_the_trial(settings, make_export, tmp_path):
    trial = make_export(**TRIALS[settings])
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    dense = logits_of(model)
    with load_spon(model, tmp_path / "adapter"):
        torch.testing.assert_close(logits_of(model), trial.logits(), rtol=0, atol=1e-5)
    assert (dense - trial.logits()).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_without_the_columns_of_zeros_is_the_product(dtype, threads, biased, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(75, 200, bias=biased, dtype=dtype).requires_grad_(False)
    for kept in (0, 1, 8, 75):
        x = torch.randn(1, 1, 75, generator=generator).to(dtype)
        x[..., torch.randperm(75, generator=generator)[kept:]] = 0
        plain = layer(x)
        exact = x.double() @ layer.weight.double().T + (layer.bias.double() if biased else 0)
        swap = load._SkipZeros(layer, load._product_for(layer))
        found = layer(x)
        swap.remove()
        assert (found.shape, found.dtype) == (plain.shape, plain.dtype)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-6)
        assert torch.equal(layer(x), plain)


@pytest.mark.parametrize("default", ["set_default_dtype(torch.bfloat16)", "set_default_device('meta')"])
def test_torchs_defaults_change_no_product(default):
    script = f"""
import torch
from analysis.export import load
layer = torch.nn.Linear(64, 4096).requires_grad_(False)
x = load.keep_above(torch.randn(1, 1, 64), 0.5)
swap = load._SkipZeros(layer, load._product_for(layer))
before = layer(x)
torch.{default}
after = [(load.keep_above(x, 0.25 + 0.001 * n), layer(x)) for n in range(100)]
assert all(kept.equal(x) and y.equal(before) for kept, y in after)
"""
    subprocess.run([sys.executable, "-c", script], check=True)  # a fault of memory ends the process


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths of the products that skip zeros from now on."""
    widths, real = [], load._compile(False)
    counting = lambda *of: (widths.append(of[6]), real(*of))  # noqa: E731
    monkeypatch.setattr(load, "_compile", lambda bf16: counting)
    return widths


def test_single_tokens_skip_zeros_and_all_else_does_not(adapter, monkeypatch):
    trial, directory = adapter
    model, tokens = trial.base(), TOKENS[:1]
    with load_spon(model, directory, skip_zeros=False):
        plain = step_by_step(model, tokens, 6)
    widths = count_products(monkeypatch)
    with load_spon(model, directory):
        logits_of(model)
        assert not widths  # a batch, a prefill
        torch.testing.assert_close(step_by_step(model, tokens, 6), plain, rtol=0, atol=1e-5)
        assert len(widths) == 6 * len(trial.checkpoint.meta.config.plan.levels)
    assert torch.equal(step_by_step(model, tokens, 6), step_by_step(trial.base(), tokens, 6))


@pytest.mark.parametrize("missing", ["compiler", "source"])
def test_without_a_c_compiler_or_the_source_zeros_are_multiplied(adapter, monkeypatch, missing):
    trial, directory = adapter
    load._compile.cache_clear()
    if missing == "compiler":
        monkeypatch.setattr(load.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(load, "__file__", str(directory / "alone.py"))
    model = trial.base()
    with load_spon(model, directory):
        assert not any("forward" in vars(module) for module in model.modules())
    load._compile.cache_clear()


def test_a_site_may_be_only_sparse_or_only_biased(make_export, tmp_path):
    allocation = {"name": "some", "sites": ["0.up_proj", "1.down_proj"]}
    plan = {"modules": ["q_proj", "down_proj"], "allow_unsparsified_biases": True}
    trial = make_export(allocation=allocation, **plan)
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    with load_spon(model, tmp_path / "adapter"):
        torch.testing.assert_close(logits_of(model), trial.logits(), rtol=0, atol=1e-5)


def test_the_model_is_its_old_self_after_the_block_and_after_remove(adapter):
    trial, directory = adapter
    model = trial.base()
    dense = logits_of(model)
    with pytest.raises(KeyError), load_spon(model, directory):
        raise KeyError
    assert torch.equal(logits_of(model), dense)
    handle = load_spon(model, directory)
    assert not torch.equal(logits_of(model), dense)
    handle.remove()
    handle.remove()
    assert torch.equal(logits_of(model), dense)


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_an_adapter_rounds_once_as_the_trial_does_in_bfloat16(rule, make_export, tmp_path):
    trial = make_export(rule=rule)
    export(trial.place, tmp_path / "adapter")
    trial.bench.model.network.to(torch.bfloat16)
    model = trial.base().to(torch.bfloat16)
    with load_spon(model, tmp_path / "adapter"):
        torch.testing.assert_close(logits_of(model), trial.logits(), rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_generation_with_a_cache_is_full_recomputation(rule, make_export, tmp_path):
    trial = make_export(rule=rule)
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    prompt = TOKENS[:, :5]
    with load_spon(model, tmp_path / "adapter"):
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "attention_mask": prompt * 0 + 1}
        cached = model.generate(prompt, use_cache=True, **options)
        assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))
        for position in range(5, 13):
            best = trial.logits(cached[:, :position])[:, -1].argmax(dim=-1)
            assert torch.equal(cached[:, position], best)


@pytest.mark.parametrize("prefill", [1, 5, 9])
def test_decoding_is_full_recomputation(prefill, make_export, tmp_path):
    trial = make_export(rule="topk")
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    with load_spon(model, tmp_path / "adapter"):
        torch.testing.assert_close(step_by_step(model, TOKENS, prefill), trial.logits(), rtol=0, atol=1e-5)


def test_second_half_is_fixed_at_the_prefill(make_export, tmp_path, monkeypatch):
    """The same as a call that leaves as many positions dense as half of the prefill, however many tokens follow."""
    trial = make_export(tokens="second_half")
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    with load_spon(model, tmp_path / "adapter"):
        decoded = step_by_step(model, TOKENS, prefill=8)
        whole = logits_of(model)
    monkeypatch.setattr(load._TokenPolicy, "_dense", lambda self, positions, past: positions < 4)
    with load_spon(model, tmp_path / "adapter"):
        torch.testing.assert_close(decoded, logits_of(model), rtol=0, atol=1e-5)
    assert not torch.allclose(decoded, whole, atol=1e-3)


def test_second_half_of_a_prefill_in_pieces_is_refused(make_export, tmp_path):
    trial = make_export(tokens="second_half")
    export(trial.place, tmp_path / "adapter")
    model = trial.base()
    with load_spon(model, tmp_path / "adapter"):
        cache = model(TOKENS[:, :4], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="prefill in one call, but 3 tokens came after 4 cached"):
            model(TOKENS[:, 4:7], past_key_values=cache)


def config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the config of an export."""
    return edited(CONFIG, change)


def site(**change: object) -> Callable[[Path], object]:
    """Change the first site of an export's config."""
    return config(lambda raw: raw["sites"]["model.layers.0.mlp.down_proj"].update(change))


def another(path: str, **change: object) -> Callable[[Path], object]:
    """Add a sparse site to an export's config."""
    return config(
        lambda raw: raw["sites"].update(
            {path: {"in_features": 32, "out_features": 32, "sparsity": 0.5, "threshold": 1.0, "bias": False} | change}
        )
    )


def shorten(directory: Path) -> None:
    vectors = load_file(directory / BIASES)
    save_file({path: vector[:-1].clone() for path, vector in vectors.items()}, directory / BIASES)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bias that is not there": (another("model.layers.7.mlp.down_proj", bias=True), "differ at model.layers.7.mlp"),
    "a sparse site that is not there": (another("model.x"), "model.x is not"),
    "a site that is no linear layer": (another("model.norm", sparsity=0, threshold=None), "RMSNorm"),
    "another width": (site(in_features=64), r"\(64, 32\), but it is \(48, 32\)"),
    "a bias left over": (site(bias=False), "differ at model.layers.0.mlp.down_proj"),
    "no threshold": (site(threshold=None), "threshold None"),
    "another depth": (
        config(lambda raw: raw["base_model"].update(num_layers=3)),
        "of 3 layers, but this one has 2",
    ),
    "another schema": (config(lambda raw: raw.update(schema_version=1)), "schema version 2, but got 1"),
    "an unknown key": (config(lambda raw: raw.update(extra=1)), "extra"),
    "a missing key": (config(lambda raw: raw.pop("rule")), "rule"),
    "an unknown rule": (config(lambda raw: raw.update(rule="magic")), "magic"),
    "no config": (lambda directory: (directory / CONFIG).unlink(), f"{CONFIG}, but it is missing"),
    "no vectors": (lambda directory: (directory / BIASES).unlink(), f"{BIASES}, but it is missing"),
    "half a file": (
        lambda directory: (directory / BIASES).write_bytes((directory / BIASES).read_bytes()[:-8]),
        "must be whole",
    ),
    "shorter vectors": (shorten, "differ at"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_and_changes_nothing(fault, adapter):
    trial, directory = adapter
    model = trial.base()
    dense = logits_of(model)
    change, message = FAULTS[fault]
    change(directory)
    with pytest.raises(ValueError, match=message):
        load_spon(model, directory)
    assert torch.equal(logits_of(model), dense)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_takes_one_export_at_a_time(adapter):
    trial, directory = adapter
    model = trial.base()
    with load_spon(model, directory), pytest.raises(ValueError, match="one is attached"):
        load_spon(model, directory)
    load_spon(model, directory).remove()


def test_only_a_transformers_model_of_the_same_widths_is_taken(adapter):
    other = LlamaForCausalLM(LlamaConfig(**SIZES | {"intermediate_size": 64}))
    for model, message in (
        (torch.nn.Linear(2, 2), "PreTrainedModel, but got Linear"),
        (other, "must be a linear layer"),
    ):
        with pytest.raises(ValueError, match=message):
            load_spon(model, adapter[1])


def test_a_process_without_this_code_loads_the_adapter(adapter, tmp_path):
    trial, directory = adapter
    script = f"""
import sys
sys.path.insert(0, {str(directory)!r})
from spon import load_spon
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({trial.bench.materials.model.location!r})
with load_spon(model, {str(directory)!r}), torch.no_grad():
    save_file({{"logits": model(torch.tensor({TOKENS.tolist()})).logits}}, {str(tmp_path / "found")!r})
rooms = {{"search_spaces", "trainables", "sweep", "analysis"}} & {{name.partition(".")[0] for name in sys.modules}}
assert not rooms, rooms
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    found = load_file(tmp_path / "found")["logits"]
    torch.testing.assert_close(found, trial.logits(), rtol=0, atol=1e-5)
