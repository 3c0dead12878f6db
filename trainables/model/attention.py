"""Attention of the resident model on torch's kernels, by names for ``attn_implementation``."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SDPA_FP32 = "sdpa_fp32"
"""For bf16 models on a CPU: fp32, in which torch's backward kernel is three times as fast as in bf16.

It is also more exact, and its memory grows with the length of a block, not with its square.
"""
SDPA_BLOCKS = "sdpa_blocks"
"""For a GPU: no mask for text without padding, even while a CUDA graph is recorded.

transformers' own function searches position ids for sequences that share a row. That makes the CPU wait for the GPU in
each pass. A recording cannot wait, so there it builds a mask, which rules out the fast kernels.
"""


def _sdpa_in_fp32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
    return output.to(query.dtype), None


def _mask_of_blocks(
    *,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **options: Any,
) -> Tensor | None:
    """No mask for whole texts within the model's window, which the kernels handle as causal; else sdpa's mask."""
    if attention_mask is None and q_length == kv_length <= (local_size or kv_length):
        return None
    lengths: dict[str, Any] = {"q_length": q_length, "kv_length": kv_length, "local_size": local_size}
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, **lengths, **options)
    return mask


AttentionInterface.register(SDPA_FP32, _sdpa_in_fp32)
AttentionMaskInterface.register(SDPA_FP32, sdpa_mask)
AttentionInterface.register(SDPA_BLOCKS, sdpa_attention_forward)
AttentionMaskInterface.register(SDPA_BLOCKS, _mask_of_blocks)


def attention_for(device: str, dtype: str) -> str | None:
    """The implementation for a device, ``cpu`` or ``cuda``, and a dtype; None leaves the choice to transformers."""
    if device == "cuda":
        return SDPA_BLOCKS
    return SDPA_FP32 if dtype == "bfloat16" else None
