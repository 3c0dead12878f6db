"""Biases folded into a model: stock transformers loads it whole, and with the sparsifier it is the trial."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from analysis.export.load import load_spon
from analysis.export.write import export
from search_spaces.errors import SponError
from tests.analysis.export.conftest import TOKENS, Exportable

MakeExport = Callable[..., Exportable]
ABSORBING = {
    "tied-llama": ("o_proj", "down_proj"),
    "untied-llama": ("q_proj", "up_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj"),
    "qwen3": ("q_proj", "o_proj"),
    "gemma": ("o_proj",),
    "gemma3": ("o_proj",),
}
"""Modules whose biases a family can absorb."""


def load_stock(directory: Path) -> PreTrainedModel:
    """Load a directory as anyone would, and see that its weights are exactly the model's."""
    model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@pytest.mark.parametrize("rule", ["topk", "threshold"])
@pytest.mark.parametrize("family", ABSORBING)
def test_an_absorbed_model_gives_the_logits_of_the_trial(family, rule, make_export, tmp_path):
    trial = make_export(family, ABSORBING[family], rule=rule)
    export(trial.place, tmp_path / "whole", absorbed=True)
    model = load_stock(tmp_path / "whole")
    expected = trial.logits()
    with torch.no_grad():
        with load_spon(model, tmp_path / "whole"):
            torch.testing.assert_close(model(TOKENS).logits, expected, rtol=0, atol=1e-5)
        without_sparsifier = model(TOKENS).logits
        assert (without_sparsifier - expected).abs().max() > 0.1
        assert (without_sparsifier - trial.base()(TOKENS).logits).abs().max() > 0.1


def test_biases_that_leave_some_tokens_alone_cannot_be_absorbed(make_export, tmp_path):
    trial = make_export(tokens="second_half")
    with pytest.raises(SponError, match="at every token, but this trial leaves some dense"):
        export(trial.place, tmp_path / "whole", absorbed=True)


@pytest.mark.parametrize("family", ["tied-llama", "untied-llama"])
def test_the_head_stays_as_tied_as_it_was_and_the_tokenizer_comes_along(family, make_export, tmp_path):
    trial = make_export(family)
    export(trial.place, tmp_path / "whole", absorbed=True)
    model = load_stock(tmp_path / "whole")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (family == "tied-llama")
    base = AutoTokenizer.from_pretrained(trial.bench.materials.model.location)
    text = "w3 w17 w5"
    assert AutoTokenizer.from_pretrained(tmp_path / "whole")(text).input_ids == base(text).input_ids == [3, 17, 5]


def test_other_projections_get_zeros_and_other_switches_stay_off(make_export, tmp_path):
    trial = make_export(modules=("o_proj",))
    export(trial.place, tmp_path / "whole", absorbed=True)
    model = load_stock(tmp_path / "whole")
    assert (model.config.attention_bias, model.config.mlp_bias) == (True, False)
    for layer in model.model.layers:
        assert all(not getattr(layer.self_attn, name).bias.any() for name in ("q_proj", "k_proj", "v_proj"))
        assert layer.self_attn.o_proj.bias.any()
        assert layer.mlp.down_proj.bias is None


def test_a_bias_that_is_there_already_is_added_to(make_export, tmp_path):
    trial = make_export("qwen2", ("q_proj",))
    export(trial.place, tmp_path / "whole", absorbed=True)
    own, model = trial.base(), load_stock(tmp_path / "whole")
    for site, vector in trial.checkpoint.biases.items():
        path = f"model.layers.{site.layer}.self_attn.q_proj.bias"
        torch.testing.assert_close(model.get_parameter(path), own.get_parameter(path) + vector)


@pytest.mark.parametrize(
    ("family", "modules", "named"),
    [
        ("mistral", ("o_proj", "down_proj"), "mistral has none for down_proj, o_proj"),
        ("qwen2", ("q_proj", "o_proj"), "qwen2 has none for o_proj"),
        ("qwen3", ("o_proj", "down_proj"), "qwen3 has none for down_proj"),
        ("gemma", ("down_proj",), "gemma has none for down_proj"),
        ("gemma3", ("gate_proj",), "gemma3_text has none for gate_proj"),
    ],
)
def test_a_family_without_the_switch_is_refused(family, modules, named, make_export, tmp_path):
    trial = make_export(family, modules)
    with pytest.raises(SponError, match=rf"{named}; an export without --absorb, the adapter, works"):
        export(trial.place, tmp_path / "whole", absorbed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_biases_are_not_added_twice_nor_forgotten(make_export, tmp_path):
    trial = make_export()
    export(trial.place, tmp_path / "whole", absorbed=True)
    export(trial.place, tmp_path / "adapter")
    with pytest.raises(ValueError, match="absorbed biases None, but this one has"):
        load_spon(load_stock(tmp_path / "whole"), tmp_path / "adapter")
    with pytest.raises(ValueError, match="but this one has None"):
        load_spon(trial.base(), tmp_path / "whole")


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_an_absorbed_model_generates_with_a_cache_as_without(rule, make_export, tmp_path):
    trial = make_export(rule=rule)
    export(trial.place, tmp_path / "whole", absorbed=True)
    model = load_stock(tmp_path / "whole")
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with load_spon(model, tmp_path / "whole"):
        prompt = TOKENS[:, :5]
        mask = torch.ones_like(prompt)
        cached = model.generate(prompt, attention_mask=mask, **options)
        assert torch.equal(cached, model.generate(prompt, attention_mask=mask, use_cache=False, **options))
