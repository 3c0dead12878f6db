"""A pass forward and back as one CUDA graph.

A pass of a 1B model on a thousand tokens is some 3,000 kernels of a few microseconds, which Python launches more slowly
than a GPU runs them. Recorded once, they are launched together.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Pass = Callable[[Tensor, Tensor], Tensor]
_EAGER = 2
"""Passes before the recording, in which libraries get their workspaces and the gradients their memory."""


class RecordedPass:
    """Calls a pass a few times as it is, then records it and plays it again, for each number of rows.

    Args:
        run: (rows, share) -> loss. It must wait for nothing, and add its gradients to tensors that stay where they are.
    """

    def __init__(self, run: Pass) -> None:
        self._run = run
        self._stream: torch.cuda.Stream | None = None
        self._calls: dict[int, int] = {}
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, rows: Tensor, share: Tensor) -> Tensor:
        """The loss of a pass, on the device and not waited for; its gradients are added.

        Args:
            rows: (blocks,) indices on the device.
            share: of the step, a scalar on the device.
        """
        size, stream = len(rows), self._stream or torch.cuda.Stream()
        self._stream = stream
        if size not in self._graphs and self._calls.get(size, 0) >= _EAGER:
            self._graphs[size] = _Graph(self._run, rows, share, stream)
        if size in self._graphs:
            return self._graphs[size](rows, share)
        self._calls[size] = self._calls.get(size, 0) + 1
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # where it will be recorded: autograd keeps to the stream it met first
            loss = self._run(rows, share)
        torch.cuda.current_stream().wait_stream(stream)
        return loss


class _Graph:
    """A recording of a pass of one size, which reads its inputs from tensors of its own."""

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
