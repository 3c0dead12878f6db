"""The kernel of GPUs, by Triton's interpreter on a CPU. On a GPU ``tests.benchmarks.gpu`` compares it too."""

import os
import subprocess
import sys

import pytest

_CHECK = """
import torch
from trainables.model.kernels import kth_largest
for dtype in (torch.float32, torch.bfloat16):
    for width, k in ((300, 100), (64, 64), (64, 1), (128, 77)):
        x = torch.randn(3, 5, width).to(dtype)
        x[0, 0, :50] = 0
        assert torch.equal(kth_largest(x, torch.tensor(k)), x.abs().topk(k, dim=-1).values[..., -1:]), (dtype, width, k)
"""


def test_the_kernel_finds_the_kth_largest_magnitude():
    pytest.importorskip("triton", reason="Triton comes with the GPU builds of torch")
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # read when the kernel is made
    subprocess.run([sys.executable, "-c", _CHECK], check=True, env=environment, timeout=120)
