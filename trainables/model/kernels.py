"""A GPU kernel for the k-th largest magnitude of each row, in one pass over memory.

torch's ``topk`` and ``kthvalue`` sort more than needed. Magnitudes sort as their bits do, so fifteen counts over a row
that stays in registers find a bf16 one exactly.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit  # type: ignore[untyped-decorator]
def _kth_largest(x_ptr, found_ptr, k_ptr, width, block: tl.constexpr, bits: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
    if bits == 15:
        magnitude = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    else:
        magnitude = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    magnitude = tl.where(inside, magnitude, -1)
    k = tl.load(k_ptr)
    found = 0
    for step in range(bits):
        tried = found + (1 << (bits - 1 - step))
        enough = tl.sum((magnitude >= tried).to(tl.int32), axis=0) >= k
        found = tl.where(enough, tried, found)
    tl.store(found_ptr + row, found)


@triton_op("spon_sweep::kth_largest", mutates_args={})
def kth_largest(x: Tensor, k: Tensor) -> Tensor:
    """The k-th largest magnitude of each row of (..., width), shape (..., 1).

    Args:
        x: bf16 or fp32, on a GPU.
        k: int64 scalar on the same device, at least 1.
    """
    rows = x.reshape(-1, x.shape[-1])
    found = torch.empty(len(rows), dtype=torch.int32, device=x.device)
    width, bits = rows.shape[1], 8 * x.itemsize - 1
    block = triton.next_power_of_2(width)
    wrap_triton(_kth_largest)[(len(rows),)](
        rows.contiguous(), found, k, width, block=block, bits=bits, num_warps=min(16, max(4, block // 1024))
    )
    integers = {2: torch.int16, 4: torch.int32}[x.itemsize]
    return found.to(integers).view(x.dtype).view(*x.shape[:-1], 1)
