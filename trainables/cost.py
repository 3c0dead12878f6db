"""What a trial costs on any device: steps, arithmetic, memory and disk, from its config and the model's shape alone.

The figures count what the code does: products with frozen weights, the tensors that autograd keeps, the teacher
statistics. They need neither the weights nor a GPU, so a sweep can be judged before either is available.
"""

import math
from collections.abc import Iterable

import torch

from search_spaces.config import TrainingConfig
from search_spaces.errors import SponError
from search_spaces.sites import ModelShape, Site, site_order
from trainables.loss import CHUNK_TOKENS
from trainables.model.resident import check_device

_ELEMENT = {"bfloat16": 2, "float32": 4}
_ALL_SITES = 1.55
"""Activations with all seven projections sparse and biased under ``topk``, uncompiled, relative to few sites.

On an H100, steps of 8 x 128 tokens took 5.2 GiB (1B) and 23.6 GiB (8B); ``gpu_bytes`` says 5.3 and 23.8. Compiled ones
took 4.4 and 20.9 GiB.
"""


def steps_per_epoch(n_blocks: int, training: TrainingConfig) -> int:
    """Optimiser steps in one pass over ``n_blocks`` blocks; the last one may be smaller."""
    return math.ceil(n_blocks / (training.batch_size * training.gradient_accumulation_steps))


def total_steps(n_blocks: int, training: TrainingConfig) -> int:
    """Optimiser steps of a whole run."""
    whole = training.epochs * steps_per_epoch(n_blocks, training)
    return min(whole, training.max_steps) if training.max_steps else whole


def forward_flop(shape: ModelShape, n_tokens: int, heads: int = 1) -> float:
    """Floating-point operations of a forward pass, without attention's own (a few percent at 128 tokens).

    ``heads`` counts products with the output embedding: one to score, two to compute the gradient or m as well.
    """
    weights = sum(site.in_features * site.out_features for site in shape.sites.values())
    return 2.0 * n_tokens * (weights + heads * shape.vocab_size * shape.hidden_size)


def step_flop(shape: ModelShape, n_tokens: int, biased: Iterable[Site]) -> float:
    """Operations of a training step: forward, the loss with its gradient, and back to the first biased site.

    Weights are frozen, so the backward pass costs one product per layer, as the forward pass does.
    """
    first = min(map(site_order, biased))
    back = sum(s.in_features * s.out_features for site, s in shape.sites.items() if site_order(site) > first)
    return forward_flop(shape, n_tokens, heads=2) + 2.0 * n_tokens * back


def activation_bytes(shape: ModelShape, n_tokens: int, dtype: str) -> int:
    """Bytes that autograd keeps for the backward pass from the loss to the first layer.

    A layer of the Llama layout keeps, for each token, two fp32 vectors of the residual stream's width, four of the
    feed-forward's width in the model's dtype, and two of the queries' and two of the keys' width.
    """
    size = _ELEMENT[dtype]
    layers = 0
    for site, linear in shape.sites.items():
        if site.module == "down_proj":
            layers += 8 * shape.hidden_size + 4 * size * linear.in_features
        elif site.module in ("q_proj", "k_proj"):
            layers += 2 * size * linear.out_features
    return n_tokens * layers


def teacher_bytes(shape: ModelShape, n_tokens: int) -> int:
    """Bytes of the teacher statistics of a text: fp32 m, H and NLL."""
    return n_tokens * 4 * (shape.hidden_size + 2)


def gpu_bytes(shape: ModelShape, dtype: str, block_size: int, n_teacher_tokens: int, training: TrainingConfig) -> int:
    """Upper bound, for planning, on the bytes that a trial holds on its GPU, without CUDA's own context.

    Teacher statistics of the calibration and validation tokens stay on the device.
    """
    weights = _ELEMENT[dtype] * shape.num_parameters
    logits = CHUNK_TOKENS["cuda"] * shape.vocab_size * (4 + _ELEMENT[dtype])
    activations = activation_bytes(shape, training.batch_size * block_size, dtype)
    return weights + logits + round(_ALL_SITES * activations) + teacher_bytes(shape, n_teacher_tokens)


def out_of_memory(what: str) -> str:
    """Message for a user whose GPU is too small."""
    return (
        f"a trial must fit into the memory of its GPU, but {what} did not: lower training.batch_size or "
        "corpus.block_size, or ask for more of a GPU (at resources.gpus_per_trial)"
    )


def claim_gpu(needed: int, share: float) -> None:
    """Limit this process to its share of the GPU, and refuse a trial that needs more bytes (``gpu_bytes``).

    Raises:
        SponError: if there is no GPU, or the share is smaller than what is needed.
    """
    check_device("cuda")
    name, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    if needed > share * total:
        raise SponError(
            f"a trial must fit into its share of the GPU, but it needs {needed / 2**30:.1f} GiB and "
            f"{share:g} of {name} is {share * total / 2**30:.1f} GiB (at resources.gpus_per_trial)"
        )
    torch.cuda.set_per_process_memory_fraction(share)
