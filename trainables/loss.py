"""Distillation losses on hidden states: the full logits never exist.

Logits are linear in the final hidden state, z = U h. With p the dense model's distribution at temperature T, and

    m = sum_v p_v U_v          (a vector as wide as h)
    H = entropy of p

the KL divergence needs nothing else of the dense model:

    KL(dense || sparse) = logsumexp(U h / T) - h . m / T - H        dKL/dh = (softmax(U h / T) U - m) / T
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainables.model.compiled import built, can_compile

CHUNK_TOKENS = {"cpu": 256, "cuda": 1024}
"""Tokens whose logits exist at once. With fewer, more time goes into reading U again for every chunk.

Measured on 512 tokens of the embedded model's head: 806, 744 and 729 ms in chunks of 128, 256 and 512 on a CPU with
AVX-512, and 825, 771 and 707 ms with AVX2.
"""


def token_chunks(rows: Tensor) -> Iterator[slice]:
    """Slices of a (tokens, ...) tensor whose logits may exist at once."""
    size = CHUNK_TOKENS[rows.device.type]
    return (slice(start, start + size) for start in range(0, len(rows), size))


def operand(head: Tensor) -> Tensor:
    """U as an operand of products with an fp32 output.

    On CUDA that is U itself, in bf16 without an fp32 copy. On a CPU it is fp32, because bf16 products have bf16
    outputs there.
    """
    return head if head.is_cuda else head.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply in the dtype of b with an output of at least fp32; bf16 operands on CUDA only.

    A bf16 output would round the logits and softmax(U h) U, from which a nearly equal m is subtracted. On the embedded
    model at 50%, a token's gradient then had a cosine of 0.964 to the exact one, -0.01 at worst. With bf16 operands and
    an fp32 output it is 0.99997, and 0.998 at worst.
    """
    if b.dtype == torch.bfloat16:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    return a.to(b.dtype) @ b


def mean_rows(weights: Tensor, head: Tensor) -> Tensor:
    """Sum_v w_v U_v for weights of (tokens, vocabulary) to fp32 accuracy, (tokens, hidden).

    With a bf16 head the weights are split into a rounded part and the remainder. That takes two products, but only
    the teacher statistics need it, once.
    """
    if head.dtype != torch.bfloat16:
        return weights @ head
    rounded = weights.to(head.dtype)
    return product(rounded, head).add_(product(weights - rounded, head))


def logits_of(hidden: Tensor, head: Tensor, values: torch.dtype) -> Tensor:
    """U h of some tokens, (tokens, vocabulary), with an output of at least fp32.

    On a CPU, fp32 operands that hold bf16 values are multiplied as bf16. With AVX-512 BF16 that takes three quarters of
    the time and agrees to fp32 rounding. Without such instructions nothing changes.

    Args:
        hidden: (tokens, hidden).
        head: U of shape (vocabulary, hidden).
        values: dtype of the model; both operands hold values of it, whatever their own dtype is.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at import
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if values == torch.bfloat16 else before
    try:
        return product(hidden, head.T)
    finally:
        matmul.fp32_precision = before


def exponentials(logits: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Exponentials of (tokens, vocabulary) logits, with their sums and logsumexp, (tokens,) each.

    The largest logit is subtracted first, so the exponentials are a softmax times the returned sum. The logits are
    consumed: where nothing is compiled, the exponentials overwrite them.

    Args:
        logits: fp32 or fp64.
        dtype: of the exponentials, which are rounded to it after summation; None keeps that of the logits.
    """
    if can_compile(logits.device.type):
        found: tuple[Tensor, Tensor, Tensor] = built(_exponentials)(logits, dtype or logits.dtype)
        return found
    largest = logits.amax(dim=-1)
    weights = logits.sub_(largest[:, None]).exp_()
    total = weights.sum(dim=-1)
    return weights if dtype is None else weights.to(dtype), total, largest + total.log()


def _exponentials(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``exponentials`` for the compiler: two passes over the logits, where torch's own kernels take seven."""
    largest = logits.amax(dim=-1)
    weights = (logits - largest[:, None]).exp()
    total = weights.sum(dim=-1)
    return weights.to(dtype), total, largest + total.log()


def log_normaliser(logits: Tensor) -> Tensor:
    """Logsumexp of (tokens, vocabulary) logits, (tokens,); consumes the logits where nothing is compiled."""
    if can_compile(logits.device.type):
        found: Tensor = built(_logsumexp)(logits)
        return found
    return exponentials(logits)[2]


def _logsumexp(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=-1)


class _LinearLogSumExp(torch.autograd.Function):
    """Sum over tokens of logsumexp(U h) - h . m; the same pass computes the gradient with respect to h."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, mean_row: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        gradient, values = torch.empty_like(mean_row), head.dtype
        if not head.is_cuda:
            head = head.to(mean_row.dtype)  # a CPU's bf16 products have bf16 outputs
        for part in token_chunks(hidden):
            h, m = hidden[part], mean_row[part]
            logits = logits_of(h, head, values).to(m.dtype)
            weights, normaliser, lse = exponentials(logits, head.dtype)
            total += (lse.double() - (h.double() * m.double()).sum(dim=-1)).sum()
            # Divide by their own sum: exp(z - lse) rounds lse, so its sum misses one, which adds an error of up to
            # 4e-6 of m to every gradient
            gradient[part] = product(weights, head).to(m.dtype).div_(normaliser[:, None]).sub_(m)
        ctx.save_for_backward(gradient.to(hidden.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None


def linear_kl(hidden: Tensor, head: Tensor, mean_row: Tensor, entropy: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(dense || sparse) times T^2, mean over tokens, in nats.

    Args:
        hidden: (tokens, hidden) of the sparse model; gradients flow to it.
        head: U of shape (vocabulary, hidden); its dtype is that of the matrix products.
        mean_row: m of shape (tokens, hidden), at least fp32; its dtype is that of the softmax.
        entropy: H of shape (tokens,).
        temperature: T, of both distributions.

    Returns:
        fp64 scalar.
    """
    total: Tensor = _LinearLogSumExp.apply(hidden / temperature, head, mean_row)  # type: ignore[no-untyped-call]
    return (total - entropy.sum(dtype=torch.float64)) / len(hidden) * temperature**2
