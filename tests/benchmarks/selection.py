"""Ways to sparsify one input of down_proj, batch 8 x 128: the study's, what ``topk`` does here, and ``threshold``.

python -m tests.benchmarks.selection
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from tests.benchmarks.table import print_table
from trainables.teal import keep_above, keep_largest, kept_entries

_SPARSITY, _WIDTH, _REPEATS = 0.5, 1536, 7


def by_kthvalue(x: Tensor) -> Tensor:
    """The study's way."""
    smallest = x.shape[-1] - kept_entries(x.shape[-1], _SPARSITY) + 1
    return x * (x.abs() >= x.abs().kthvalue(smallest, dim=-1, keepdim=True).values)


def by_topk(x: Tensor) -> Tensor:
    """torch.topk, unsorted."""
    kept = x.abs().topk(kept_entries(x.shape[-1], _SPARSITY), dim=-1, sorted=False).values
    return x * (x.abs() >= kept.amin(dim=-1, keepdim=True))


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "kthvalue (the study)": by_kthvalue,
    "torch.topk": by_topk,
    "topk rule (numpy partition)": lambda x: keep_largest(x, _SPARSITY),
    "threshold rule (hardshrink)": lambda x: keep_above(x, 0.6745),
}


def milliseconds(way: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Median time forward and back."""
    taken = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.autograd.grad(way(x).sum(), x)
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    x = torch.randn(8, 128, _WIDTH, dtype=torch.bfloat16)
    reference = by_kthvalue(x)
    rows = []
    for name, way in WAYS.items():
        same = torch.equal(way(x), reference) or "threshold" in name
        cells = [f"{milliseconds(way, x.to(dtype).requires_grad_()):.1f}" for dtype in (x.dtype, torch.float32)]
        rows.append((name, *cells, "yes" if same else "NO"))
    head = ["selection", "bf16 ms", "fp32 ms", "keeps what the study keeps"]
    print_table(f"Sparsifying 8 x 128 x {_WIDTH}, forward and back, one thread", head, rows)


if __name__ == "__main__":
    main()
