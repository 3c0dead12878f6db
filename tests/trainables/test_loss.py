"""The losses on hidden states against the plain formulas on full logits."""

import pytest
import torch
from torch import Tensor

from trainables import loss
from trainables.loss import linear_kl

N_TOKENS, WIDTH, VOCABULARY = 13, 6, 29


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks, the last one not full."""
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", 5)


@pytest.fixture
def numbers() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "head": normal(VOCABULARY, WIDTH),
        "dense": 2 * normal(N_TOKENS, WIDTH),
        "hidden": (2 * normal(N_TOKENS, WIDTH)).requires_grad_(),
    }


def teacher(dense: Tensor, head: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = (dense @ head.T / temperature).log_softmax(-1)
    return log_p.exp() @ head, -(log_p.exp() * log_p).sum(-1)


def plain(hidden: Tensor, dense: Tensor, head: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over tokens of sum_v p_v (log p_v - log q_v), or without its first part, from full logits."""
    log_p, log_q = ((h @ head.T / temperature).log_softmax(-1) for h in (dense, hidden))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_kl_and_its_gradient_are_the_plain_ones(numbers, temperature):
    hidden, dense, head = numbers["hidden"], numbers["dense"], numbers["head"]
    value = linear_kl(hidden, head, *teacher(dense, head, temperature), temperature)
    (gradient,) = torch.autograd.grad(value, hidden)
    expected = plain(hidden, dense, head, temperature)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, hidden)[0])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradcheck_holds_for_the_kl(numbers, temperature):
    mean_row, entropy = teacher(numbers["dense"], numbers["head"], temperature)
    torch.autograd.gradcheck(
        lambda hidden: linear_kl(hidden, numbers["head"], mean_row, entropy, temperature), (numbers["hidden"],)
    )


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_the_chunk_size_does_not_matter(numbers, monkeypatch, chunk):
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", chunk)
    hidden, dense, head = numbers["hidden"], numbers["dense"], numbers["head"]
    value = linear_kl(hidden, head, *teacher(dense, head, 1.0))
    expected = plain(hidden, dense, head, 1.0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, hidden), torch.autograd.grad(expected, hidden))


def test_the_kl_of_the_dense_model_to_itself_is_zero_and_flat(numbers):
    hidden = numbers["dense"].clone().requires_grad_()
    value = linear_kl(hidden, numbers["head"], *teacher(numbers["dense"], numbers["head"], 1.0))
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, hidden)[0].abs().max() < 1e-12


def test_a_value_from_fp32_has_fp64_sums(numbers):
    low = {name: tensor.detach().float() for name, tensor in numbers.items()}
    value = linear_kl(low["hidden"], low["head"], *teacher(low["dense"], low["head"], 1.0))
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(
        plain(numbers["hidden"], numbers["dense"], numbers["head"], 1.0).item(), rel=1e-5
    )


def test_the_gradient_of_a_bf16_model_is_not_lost_in_rounded_logits():
    """Near the dense model the gradient is a small difference of large vectors: rounding either leaves noise."""
    generator = torch.Generator().manual_seed(0)
    head = (torch.randn(500, 64, generator=generator) / 8).bfloat16()
    dense = 4 * torch.randn(40, 64, generator=generator)
    hidden = (dense + 0.1 * torch.randn(40, 64, generator=generator)).bfloat16()
    mean_row, entropy = (part.float() for part in teacher(dense.double(), head.double(), 1.0))

    def gradient(h: Tensor, u: Tensor) -> Tensor:
        h = h.clone().requires_grad_()
        linear_kl(h, u, mean_row.to(torch.promote_types(u.dtype, torch.float32)), entropy).backward()
        return h.grad.double()

    exact = gradient(hidden.double(), head.double())
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(gradient(hidden, head), exact, dim=-1).min() > 0.9999
    rounded = ((hidden @ head.T).float().softmax(-1).bfloat16() @ head).double() - mean_row
    assert cosine(rounded, exact, dim=-1).mean() < 0.99  # the loss before


def test_rounded_operands_in_two_parts_give_fp32_means(monkeypatch):
    """As on CUDA, where bf16 operands have an fp32 output."""
    monkeypatch.setattr(loss, "product", lambda a, b: a.to(b.dtype).float() @ b.float())
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 200, generator=generator)
    head = torch.randn(200, 16, generator=generator).bfloat16()
    exact = weights.double() @ head.double()
    assert (loss.mean_rows(weights, head) - exact).norm() < 1e-5 * exact.norm()
    assert (loss.product(weights, head) - exact).norm() > 1e-4 * exact.norm()  # one part alone


def test_compiled_sums_of_exponentials_are_those_in_place(numbers):
    """By a backend that changes no arithmetic; a GPU's own is compared in ``test_on_gpu``."""
    logits = numbers["dense"] @ numbers["head"].T
    plain = loss.exponentials(logits.clone())
    fused = torch.compile(loss._exponentials, backend="eager")(logits, logits.dtype)
    for mine, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(plain[2], loss.log_normaliser(logits.clone()))
