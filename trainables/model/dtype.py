"""The dtype of a model's weights, where the config leaves it open (``model.dtype: auto``).

bfloat16 halves memory and is at least twice as fast where the hardware multiplies it. A CPU without such instructions
emulates them at a fifth of the speed of float32.
"""

import platform
from typing import Literal, NamedTuple

import torch

from search_spaces.config import SpaceConfig


class Decision(NamedTuple):
    """A dtype and the reason for it, worded to follow it in a message."""

    dtype: Literal["bfloat16", "float32"]
    reason: str


def multiplies_bf16(device: str) -> bool:
    """Whether this machine has instructions for bf16 products on a device, ``cpu`` or ``cuda``.

    On a CPU torch's own capability counts too: ``ATEN_CPU_CAPABILITY=avx2`` imitates an older machine.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    if platform.machine() in ("aarch64", "arm64"):
        return bool(has.get("bf16"))
    is_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return is_avx512 and bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def decide_dtype(device: str) -> Decision:
    """Choose the dtype of the weights for trials on a device, ``cpu`` or ``cuda``.

    The driver decides once for the whole sweep, so that all trials are comparable. It may have no GPU itself, but GPUs
    that trials can request (Ampere and later) multiply bfloat16.
    """
    if device == "cuda":
        return Decision("bfloat16", "trials run on a GPU")
    if multiplies_bf16("cpu"):
        return Decision("bfloat16", "this CPU has bfloat16 instructions")
    return Decision("float32", "this CPU has no bfloat16 instructions")


def with_dtype(space: SpaceConfig, began: SpaceConfig | None = None) -> tuple[SpaceConfig, str]:
    """The space with its dtype decided, and a line that explains the choice.

    A sweep of this name that already ``began`` keeps its dtype.
    """
    dtype = space.model.dtype
    if dtype != "auto":
        return space, f"weights in {dtype}, as the space says"
    if began is not None and began.model.dtype != "auto":
        dtype, reason = began.model.dtype, "the sweep began with it"
    else:
        dtype, reason = decide_dtype(space.resources.device)
    model = space.model.model_copy(update={"dtype": dtype})
    return space.model_copy(update={"model": model}), f"weights in {dtype}: {reason} (model.dtype: auto)"


def emulation_warning(dtype: str, device: str) -> str | None:
    """Warning for a node that lacks the instructions its trial was planned for; None if it has them."""
    if dtype != "bfloat16" or multiplies_bf16(device):
        return None
    return f"this node has no bfloat16 instructions for its {device}: the trial goes on, several times slower"
