"""The yardstick: a training step in the seed study's manner, written for its answer and not for its speed.

At every step the dense model runs again, each sparsified layer multiplies twice (the hook throws the dense product
away), every token is selected by ``kthvalue``, and the logits of both models exist whole, in fp32.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.sites import Site
from trainables.model.resident import ResidentModel
from trainables.teal import kept_entries


class Plain:
    """SPON biases under the rule ``topk``, with an optimiser.

    Args:
        model: fp32.
        sites: sparsified and biased.
        sparsity: fraction of each input to zero.
        lr: of AdamW.
    """

    def __init__(self, model: ResidentModel, sites: tuple[Site, ...], sparsity: float, lr: float = 1e-3) -> None:
        self._model, self._sparsity = model, sparsity
        widths = {site: model.shape.sites[site].out_features for site in sites}
        self.biases = {site: nn.Parameter(torch.zeros(width, device=model.device)) for site, width in widths.items()}
        self._optimizer = torch.optim.AdamW(self.biases.values(), lr=lr, weight_decay=0.0)

    def loss(self, tokens: Tensor) -> Tensor:
        """KL(dense || sparse), mean over the positions of (batch, seq) tokens, nats."""
        with torch.no_grad():
            dense = self._model.network(input_ids=tokens).logits
        with self._sparse():
            sparse = self._model.network(input_ids=tokens).logits
        p = F.softmax(dense.float(), dim=-1).flatten(0, 1)
        log_q = F.log_softmax(sparse.float(), dim=-1).flatten(0, 1)
        return F.kl_div(log_q, p, reduction="batchmean")

    def step(self, tokens: Tensor) -> None:
        """One optimiser step."""
        self._optimizer.zero_grad()
        self.loss(tokens).backward()
        nn.utils.clip_grad_norm_(self.biases.values(), 1.0)
        self._optimizer.step()

    @contextmanager
    def _sparse(self) -> Iterator[None]:
        with ExitStack() as stack:
            for site, bias in self.biases.items():
                stack.callback(self._model.linear(site).register_forward_hook(self._hook(bias)).remove)
            yield

    def _hook(self, bias: nn.Parameter) -> Callable[[nn.Linear, tuple[Tensor, ...], Tensor], Tensor]:
        def replace(layer: nn.Linear, inputs: tuple[Tensor, ...], dense_output: Tensor) -> Tensor:
            (x,) = inputs
            width = x.shape[-1]
            smallest = width - kept_entries(width, self._sparsity) + 1
            threshold = x.abs().kthvalue(smallest, dim=-1, keepdim=True).values
            return F.linear(x * (x.abs() >= threshold), layer.weight, layer.bias) + bias.to(layer.weight.dtype)

        return replace
