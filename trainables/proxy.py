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
from trainables.spon import Form, SponBiases
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
    if not (rows.start or 0) < rows.stop <= have:
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
    """Scores masks on the validation split by running the sparse model with their shared biases.

    Scores are kept per block, so a mask that goes on to more blocks pays for the new ones only.

    Args:
        bench: model and text.
        plan: sparsity plan that the biases were trained under.
        biases: shared vectors of the candidate sites, such as ``Checkpoint.biases``.
        form: what the vectors are.
    """

    def __init__(self, bench: Workbench, plan: TrialPlan, biases: Mapping[Site, Tensor], form: Form) -> None:
        self._bench, self._plan, self._biases, self._form = bench, plan, biases, form
        self._known: dict[Mask, Tensor] = {}

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
        blocks, teacher = some_blocks(self._bench, "validation", rows)
        model, thresholds = self._bench.model, self._bench.thresholds(self._plan)
        biases = SponBiases.of(model, self._switched_on(mask), self._form)
        with sparsified(model, self._plan, thresholds, biases):
            scores = score(model, blocks, teacher, "mask")
        sums = (scores.block_kl, scores.block_nll, scores.block_positions, scores.block_predictions)
        return torch.stack(sums, dim=1)

    def _switched_on(self, mask: Mask) -> dict[Site, Tensor]:
        """The shared vectors of the mask's sites, in canonical order."""
        chosen = sorted(mask, key=site_order)
        if unknown := [site for site in chosen if site not in self._biases]:
            listed = ", ".join(str(s) for s in sorted(self._biases, key=site_order)) or "none"
            raise SponError(
                f"a mask must switch on shared biases only, but {unknown[0]} has none; there are {listed} (at mask)"
            )
        return {site: self._biases[site] for site in chosen}
