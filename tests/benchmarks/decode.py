"""Decode speed on a CPU: what sparsity buys in the product of one token, and what a SPON bias costs.

python -m tests.benchmarks.decode

One token is a matrix-vector product, and as fast as its weights come from memory. A sparse input needs only the columns
of its kept entries, so the weights are stored transposed, a column a row. The weights of a layer are out of the cache
when a decoder comes to it again: each call here takes the next of enough copies.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.table import print_table

SHAPES = ((1536, 576), (2048, 2048), (4096, 1024), (8192, 2048))
"""(in, out): down_proj of the embedded model, o_proj of a 1B Llama, one between, down_proj of a 1B Llama."""
SPARSITIES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_COPIES_BYTES = 2**28
"""Of all copies together: eight times the last cache of what this was measured on."""

Product = Callable[[Tensor, Tensor], Tensor]


def dense(x: Tensor, weight: Tensor) -> Tensor:
    """W x, of weight (out, in)."""
    return F.linear(x, weight)


def gather(x: Tensor, columns: Tensor, threshold: float) -> Tensor:
    """W S(x) as a product with a copy of the kept columns, of columns (in, out)."""
    kept = (x.abs() >= threshold).nonzero().squeeze(1)
    return x[kept] @ columns[kept]


def weighted_sum(x: Tensor, columns: Tensor, threshold: float) -> Tensor:
    """W S(x) as a weighted sum of embeddings, which reads each kept column once and copies none."""
    kept = (x.abs() >= threshold).nonzero().squeeze(1)
    bags = kept.new_zeros(1)
    return F.embedding_bag(kept, columns, bags, mode="sum", per_sample_weights=x[kept]).squeeze(0)


def seconds(products: dict[str, Callable[[int], Tensor]], copies: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of a product, over rounds through all copies, taken in turn: all share the machine's moods.

    CPU time of the one thread leaves out what other processes take meanwhile, but not how they slow the memory.
    """
    taken: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(rounds + 1):
        for name, product in products.items():
            started = time.thread_time()
            for copy in range(copies):
                product(copy)
            taken[name].append((time.thread_time() - started) / copies)
    return {name: median(values[1:]) for name, values in taken.items()}  # the first round warms up


def measure(shape: tuple[int, int], dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Seconds of ``dense``, of ``gather at SPARSITY`` and ``sum at SPARSITY``, and of adding a ``bias``."""
    n_in, n_out = shape
    copies = max(2, _COPIES_BYTES // (n_in * n_out * dtype.itemsize))
    weights = [torch.randn(n_out, n_in, dtype=dtype) for _ in range(copies)]
    columns = [weight.T.contiguous() for weight in weights]
    x, y, bias = (torch.randn(width, dtype=dtype) for width in (n_in, n_out, n_out))
    products: dict[str, Callable[[int], Tensor]] = {
        "dense": lambda copy: dense(x, weights[copy]),
        "bias": lambda copy: y.add_(bias),
    }
    for sparsity in SPARSITIES:
        at = x.float().abs().quantile(sparsity).item()
        products[f"gather at {sparsity}"] = lambda copy, at=at: gather(x, columns[copy], at)
        products[f"sum at {sparsity}"] = lambda copy, at=at: weighted_sum(x, columns[copy], at)
    with torch.inference_mode():
        return seconds(products, copies, rounds)


def break_even(ratios: list[float]) -> str:
    """The sparsity from which the ratio dense / sparse stays above 1, between two measured ones on a line."""
    if ratios[-1] <= 1:
        return "never"
    last = max((at for at, ratio in enumerate(ratios) if ratio <= 1), default=None)
    if last is None:
        return f"below {SPARSITIES[0]:.0%}"
    low, high = ratios[last], ratios[last + 1]
    return f"{SPARSITIES[last] + (SPARSITIES[last + 1] - SPARSITIES[last]) * (1 - low) / (high - low):.0%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {shape: measure(shape, getattr(torch, options.dtype), options.rounds) for shape in SHAPES}
    speed, cost = [], []
    for (shape, taken), name in itertools.product(found.items(), ("gather", "sum")):
        ratios = [taken["dense"] / taken[f"{name} at {sparsity}"] for sparsity in SPARSITIES]
        figures = [f"{ratio:.2f}x" for ratio in ratios]
        speed.append((f"{shape[0]} -> {shape[1]}", f"{1e6 * taken['dense']:.0f}", name, *figures, break_even(ratios)))
    for shape, taken in found.items():
        shares = [taken["bias"] / taken[name] for name in ("dense", "sum at 0.5", "sum at 0.9")]
        cost.append((f"{shape[0]} -> {shape[1]}", f"{1e6 * taken['bias']:.1f}", *(f"{share:.2%}" for share in shares)))
    head = [
        "product",
        "dense, microseconds",
        "sparse by",
        *(f"{sparsity:.0%}" for sparsity in SPARSITIES),
        "break-even",
    ]
    title = f"One token, one thread, {options.dtype}, median of {options.rounds}: times faster than dense"
    print_table(title, head, speed)
    head = ["product", "adding a bias, microseconds", "of dense", "of sum at 50%", "of sum at 90%"]
    print_table("What a bias costs", head, cost)


if __name__ == "__main__":
    main()
