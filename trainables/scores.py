"""Scores: how far a model is from the text (NLL) and from the dense model (KL), kept per block and per document.

The sums are stored, not only the means, so that later comparisons can be paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Sums in nats, fp64. A document's NLL counts the predictions of its tokens, its KL the positions in it.

    Attributes:
        block_nll, block_kl: (blocks,).
        document_nll, document_kl: (documents,), zero for documents that no block touches.
        block_predictions, block_positions: tokens behind each block's sums, (blocks,).
        document_predictions, document_positions: tokens behind each document's sums, (documents,).
    """

    block_nll: Tensor
    block_kl: Tensor
    block_predictions: Tensor
    block_positions: Tensor
    document_nll: Tensor
    document_kl: Tensor
    document_predictions: Tensor
    document_positions: Tensor

    @property
    def nll_nats(self) -> float:
        """Mean negative log-likelihood per predicted token."""
        return (self.block_nll.sum() / self.block_predictions.sum()).item()

    @property
    def kl_nats(self) -> float:
        """Mean KL(dense || this model) per position."""
        return (self.block_kl.sum() / self.block_positions.sum()).item()

    @property
    def ppl(self) -> float:
        """Perplexity."""
        return (self.block_nll.sum() / self.block_predictions.sum()).exp().item()

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, for a safetensors file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """Mean scores of one model over runs with different seeds on the same text."""
    tensors = [run.tensors() for run in runs]
    return Scores(**{name: torch.stack([run[name] for run in tensors]).mean(dim=0) for name in tensors[0]})
