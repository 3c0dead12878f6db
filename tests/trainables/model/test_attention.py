"""Attention: chosen by device and dtype, and always the same function."""

from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from search_spaces.config import ModelConfig
from trainables.model.attention import SDPA_BLOCKS, SDPA_FP32, attention_for
from trainables.model.resident import ResidentModel, find_model, load_model


def loaded(directory: Path, dtype: str) -> ResidentModel:
    return load_model(find_model(ModelConfig(source=str(directory))), dtype, "cpu")


@pytest.mark.parametrize(("dtype", "kernel"), [("bfloat16", SDPA_FP32), ("float32", "sdpa")])
def test_only_bf16_on_a_cpu_is_computed_in_fp32(tiny_llama: Path, dtype: str, kernel: str) -> None:
    assert loaded(tiny_llama, dtype).network.config._attn_implementation == kernel


def test_a_gpu_has_attention_that_needs_no_mask():
    assert attention_for("cuda", "bfloat16") == attention_for("cuda", "float32") == SDPA_BLOCKS


@pytest.mark.parametrize("kernel", [SDPA_FP32, SDPA_BLOCKS])
@pytest.mark.parametrize("window", [None, 5, 16], ids=["causal", "sliding window", "wide window"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_it_is_the_attention_of_transformers(tmp_path: Path, kernel: str, window: int | None, padded: bool) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    model = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=window, pad_token_id=0))
    model.save_pretrained(tmp_path)
    tokens = torch.randint(64, (2, 16))
    resident = loaded(tmp_path, "float32")
    seen = torch.ones(2, 16, dtype=torch.int64)
    seen[0, 12:] = 0
    mask = {"attention_mask": seen} if padded else {}
    expected = resident.network(tokens, **mask).logits[seen.bool()]
    resident.network.set_attn_implementation(kernel)
    torch.testing.assert_close(resident.network(tokens, **mask).logits[seen.bool()], expected)
