"""Scores allocations without training: each one switches on some of a set of shared biases.

A mask is a set of biased sites. Its vectors come from one ordinary trial with a bias at every candidate site under the
same sparsity plan. Scoring runs the sparse model with them, forward only.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from search_spaces.config import Split
from search_spaces.errors import SponError
from search_spaces.sites import Site, site_order
from search_spaces.trial import TrialPlan
from trainables.evaluation import score
from trainables.sparse import sparsified
from trainables.spon import Form, SponBiases, switched_on
from trainables.teacher import Teacher
from trainables.text.corpus import Blocks
from trainables.workbench import Workbench

Mask = frozenset[Site]


def some_blocks(bench: Workbench, split: Split, rows: slice) -> tuple[Blocks, Teacher]:
    """Some blocks of a split with their teacher statistics.

    Raises:
        SponError: if the split has fewer blocks, or is the test split and not open.
    """
    blocks, teacher = bench.blocks(split), bench.teacher(split)
    have = len(blocks.tokens)
    if not (rows.start or 0) < (have if rows.stop is None else rows.stop) <= have:
        raise SponError(f"n_blocks must be in 1..{have}, but got {rows.stop} (at the {split} split)")
    return taken(blocks, teacher, rows)


def taken(blocks: Blocks, teacher: Teacher, rows: slice | Tensor) -> tuple[Blocks, Teacher]:
    """Select rows of the blocks and of their teacher statistics."""
    part = Blocks(blocks.tokens[rows], blocks.documents[rows])
    return part, Teacher(teacher.mean_row[rows], teacher.entropy[rows], teacher.nll[rows])


class MaskScore(NamedTuple):
    """Means over the blocks that a mask was scored on: KL(dense || sparse) per position, NLL per prediction, nats.

    ``block_kl_nats`` has the KL of each block.
    """

    kl_nats: float
    nll_nats: float
    block_kl_nats: tuple[float, ...]


class MaskScorer:
    """Scores masks by running the sparse model with their shared biases.

    Scores are kept per block, so a mask that goes on to more blocks pays for the new ones only.

    Args:
        bench: model and text.
        plan: sparsity plan that the biases were trained under.
        biases: shared vectors of the candidate sites, such as ``Checkpoint.biases``.
        split: text to compare masks on; never ``test``.
        form: what the vectors are.

    Attributes:
        candidates: sites with a shared bias, in canonical order.
        evaluated: blocks that went through the model so far.

    Raises:
        SponError: if the split is ``test``, or there are no biases.
        ValueError: if a vector does not fit its site.
    """

    def __init__(
        self,
        bench: Workbench,
        plan: TrialPlan,
        biases: Mapping[Site, Tensor],
        split: Split = "validation",
        form: Form = "output_bias",
    ) -> None:
        if not biases:
            raise SponError("a mask must have shared biases to choose from, but got none (at biases)")
        if split == "test":
            raise SponError("masks must be compared on text that choices may see, but got 'test' (at split)")
        self.candidates = tuple(sorted(biases, key=site_order))
        self.evaluated = 0
        self._bench, self._plan, self._split, self._form = bench, plan, split, form
        self._biases = biases
        self._known: dict[Mask, Tensor] = {}
        self._switched_on(frozenset(biases))  # so that vectors that do not fit fail here, not in the middle of a search

    def kl_nats(self, mask: Mask, n_blocks: int) -> float:
        """Mean KL(dense || sparse with this mask) per position on the first blocks, nats. Raises as ``scores`` does."""
        return self.scores(mask, n_blocks).kl_nats

    def scores(self, mask: Mask, n_blocks: int) -> MaskScore:
        """Scores of a mask on the first blocks of the split.

        Raises:
            SponError: if a site of the mask has no shared bias, or the split has fewer blocks.
        """
        known = self._known.get(mask, torch.empty(0, 4, dtype=torch.float64))
        if len(known) < n_blocks:
            known = torch.cat((known, self._run(mask, slice(len(known), n_blocks))))
            self._known[mask] = known
        kl, nll, positions, predictions = known[:n_blocks].sum(dim=0).tolist()
        by_block = known[:n_blocks, 0] / known[:n_blocks, 2]
        return MaskScore(kl / positions, nll / predictions, tuple(by_block.tolist()))

    def _run(self, mask: Mask, rows: slice) -> Tensor:
        """Sums of KL and NLL, positions and predictions of each block, (blocks, 4) fp64."""
        biases = self._switched_on(mask)
        blocks, teacher = some_blocks(self._bench, self._split, rows)
        model, thresholds = self._bench.model, self._bench.thresholds(self._plan)
        with sparsified(model, self._plan, thresholds, biases):
            scores = score(model, blocks, teacher, "mask")
        self.evaluated += len(blocks.tokens)
        sums = (scores.block_kl, scores.block_nll, scores.block_positions, scores.block_predictions)
        return torch.stack(sums, dim=1)

    def _switched_on(self, mask: Mask) -> SponBiases:
        return SponBiases.of(self._bench.model, switched_on(self._biases, mask), self._form)
