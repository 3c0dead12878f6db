"""Compiled kernels, on machines with a GPU and a C compiler.

Between its matrix products a decoder layer runs a hundred small kernels, which ``torch.compile`` fuses into a few. It
compiles one layer for all in some ten seconds, as long as their operations are the same (``sparse.alike_changes``).
"""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from trainables.model.resident import ResidentModel

_BUILDS = 64
"""Limit of compiled layers in one process: by where gradients begin, by rule, and by the size of a pass."""


@functools.cache
def can_compile(device_type: str) -> bool:
    """Whether kernels can be compiled for a device here: Triton builds its launchers with the system's C compiler."""
    return device_type == "cuda" and any(map(shutil.which, ("cc", "gcc", "clang")))


@functools.cache
def built(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, on first use, because the compiler takes a second to import."""
    compiled_function: Callable[..., Any] = torch.compile(function)
    return compiled_function


@contextmanager
def compiled(model: ResidentModel) -> Iterator[None]:
    """Compile the model's decoder layers while the block runs; the first pass takes longer."""
    torch._dynamo.config.recompile_limit = _BUILDS
    with ExitStack() as stack:
        for layer in model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)
            stack.callback(delattr, layer, "forward")
        yield
