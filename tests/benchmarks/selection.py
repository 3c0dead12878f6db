"""Ways to sparsify one input of down_proj, batch 8 x 128: the study's, what ``topk`` does here, and ``threshold``.

python -m tests.benchmarks.selection
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from tests.benchmarks.table import print_table
from trainables.teal import keep_above, keep_largest, kept_entries

_SPARSITY = 0.5


def by_kthvalue(x: Tensor) -> Tensor:
    """The study's way."""
    smallest = x.shape[-1] - kept_entries(x.shape[-1], _SPARSITY) + 1
    return x * (x.abs() >= x.abs().kthvalue(smallest, dim=-1, keepdim=True).values)


def by_topk(x: Tensor) -> Tensor:
    """torch.topk, unsorted: what a GPU takes."""
    kept = x.abs().topk(kept_entries(x.shape[-1], _SPARSITY), dim=-1, sorted=False).values
    return x * (x.abs() >= kept.amin(dim=-1, keepdim=True))


def by_sorting(x: Tensor) -> Tensor:
    """A full sort."""
    threshold = x.abs().sort(dim=-1, descending=True).values[..., kept_entries(x.shape[-1], _SPARSITY) - 1, None]
    return x * (x.abs() >= threshold)


def by_bisection(x: Tensor) -> Tensor:
    """Sixteen counts over the bits of bf16, which is what a GPU kernel without a sort would do."""
    kept = kept_entries(x.shape[-1], _SPARSITY)
    bits = x.abs().bfloat16().view(torch.int16)
    low, high = torch.zeros_like(bits[..., :1], dtype=torch.int32), torch.full_like(bits[..., :1], 2**15 - 1).int()
    for _ in range(15):
        middle = (low + high + 1) // 2
        enough = (bits >= middle).sum(dim=-1, keepdim=True) >= kept
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle - 1)
    return x * (bits >= low)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "kthvalue (the study)": by_kthvalue,
    "sort": by_sorting,
    "torch.topk": by_topk,
    "bisection over bits": by_bisection,
    "topk rule (numpy partition)": lambda x: keep_largest(x, _SPARSITY),
    "threshold rule (hardshrink)": lambda x: keep_above(x, 0.6745),
}


def milliseconds(way: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> float:
    """Median time forward and back."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.autograd.grad(way(x).sum(), x)
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(8, 128, options.width, dtype=torch.bfloat16)
    reference = by_kthvalue(x)
    rows = []
    for name, way in WAYS.items():
        same = torch.equal(way(x), reference) or "threshold" in name
        cells = [f"{milliseconds(way, x.to(dtype).requires_grad_(), 7):.1f}" for dtype in (x.dtype, torch.float32)]
        rows.append((name, *cells, "yes" if same else "NO"))
    head = ["selection", "bf16 ms", "fp32 ms", "keeps what the study keeps"]
    print_table(f"Sparsifying 8 x 128 x {options.width}, forward and back, {options.threads} thread(s)", head, rows)


if __name__ == "__main__":
    main()
