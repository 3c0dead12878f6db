"""A pass forward and back as one CUDA graph.

A pass of a 1B model on a thousand tokens is some 3,000 kernels of a few microseconds. Python launches them more slowly
than a GPU runs them; once recorded, they are launched together.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Pass = Callable[[Tensor, Tensor], Tensor]
_EAGER = 2
"""Passes before the recording, in which libraries allocate their workspaces and gradients their memory."""


class RecordedPass:
    """Runs a pass directly a few times, then records and replays it, for each number of rows.

    It keeps no reference to the pass, so the pass's owner and its memory go with the last reference to the owner.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._calls: dict[int, int] = {}
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, run: Pass, rows: Tensor, share: Tensor) -> Tensor:
        """Run a pass, adding its gradients. Returns its loss on the device, without waiting for it.

        Args:
            run: (rows, share) -> loss; the same at each call. It must wait for nothing, read tensors that outlive this
                object, and add its gradients to tensors that stay in place.
            rows: (blocks,) indices on the device.
            share: of the step, a scalar on the device.
        """
        size = len(rows)
        if size not in self._graphs and self._calls.get(size, 0) >= _EAGER:
            self._graphs[size] = _Graph(run, rows, share, self._stream)
        if size in self._graphs:
            return self._graphs[size](rows, share)
        self._calls[size] = self._calls.get(size, 0) + 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # the one to record on: autograd keeps to the first stream it sees
            loss = run(rows, share)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss


class _Graph:
    """A recording of a pass of one size, which reads its inputs from its own tensors."""

    def __init__(self, run: Pass, rows: Tensor, share: Tensor, stream: torch.cuda.Stream) -> None:
        self._rows, self._share = rows.clone(), share.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss = run(self._rows, self._share)

    def __call__(self, rows: Tensor, share: Tensor) -> Tensor:
        self._rows.copy_(rows)
        self._share.copy_(share)
        self._graph.replay()
        return self._loss.clone()
