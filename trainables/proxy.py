"""Scores of allocations without training: one set of shared biases, of which an allocation switches some on.

A mask is a set of biased sites. Its vectors are those of one ordinary trial that has a bias at every candidate site
under the same sparsity plan. ``MaskScorer`` runs the sparse model with a mask's vectors; ``QuadraticProxy`` runs it
once for each site, and answers for any mask by arithmetic.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import SponError
from search_spaces.schema import Split, TrialPlan
from search_spaces.sites import Site, site_order
from trainables.corpus import Blocks
from trainables.evaluation import Scores, score
from trainables.loss import CHUNK_TOKENS
from trainables.model import ResidentModel
from trainables.spon import Form, SponBiases, biased
from trainables.statistics import Array
from trainables.teacher import Teacher
from trainables.teal import sparsified
from trainables.workbench import Workbench

Mask = frozenset[Site]


def warm_start(biases: Mapping[Site, Tensor], sites: Iterable[Site]) -> dict[Site, Tensor]:
    """Copies of the shared vectors of some sites, in canonical order.

    Args:
        biases: shared vectors, (out_features,) or (in_features,) by form.
        sites: a mask's.

    Raises:
        SponError: if a site has no shared bias.
    """
    chosen = sorted(set(sites), key=site_order)
    _check_known(chosen, biases)
    return {site: biases[site].clone() for site in chosen}


def first_blocks(bench: Workbench, split: Split, n_blocks: int | None) -> tuple[Blocks, Teacher]:
    """The first blocks of a split with their teacher statistics; all of them for None.

    Raises:
        SponError: if the split has fewer, or is the test split and not open.
    """
    blocks, teacher = bench.blocks(split), bench.teacher(split)
    have = len(blocks.tokens)
    if n_blocks is None:
        return blocks, teacher
    if not 1 <= n_blocks <= have:
        raise SponError(f"n_blocks must be in 1..{have}, but got {n_blocks} (at the {split} split)")
    part = Blocks(blocks.tokens[:n_blocks], blocks.documents[:n_blocks])
    return part, Teacher(teacher.mean_row[:n_blocks], teacher.entropy[:n_blocks], teacher.nll[:n_blocks], None)


class MaskScorer:
    """Scores masks by running the sparse model with their shared biases, forward only. Scores are remembered.

    Args:
        bench: model and text.
        plan: what is sparsified, under which the biases were trained.
        biases: shared vectors of the candidate sites, such as ``Checkpoint.biases``.
        n_blocks: how many blocks of the split to use, from its start; all for None.
        split: where masks are compared; never ``test``.
        form: what the vectors are.

    Attributes:
        candidates: sites with a shared bias, in canonical order.
        model: resident, dense between calls.
        blocks, teacher: the blocks in use and their statistics.
        evaluated: blocks that went through the model so far, counted once for each mask.

    Raises:
        SponError: if the split is ``test`` or has fewer blocks, or there are no biases.
        ValueError: if a vector does not fit its site.
    """

    def __init__(
        self,
        bench: Workbench,
        plan: TrialPlan,
        biases: Mapping[Site, Tensor],
        n_blocks: int | None,
        split: Split = "validation",
        form: Form = "output_bias",
    ) -> None:
        if not biases:
            raise SponError("a mask must have shared biases to choose from, but got none (at biases)")
        if split == "test":
            raise SponError("masks must be compared on text that choices may see, but got 'test' (at split)")
        self.candidates = tuple(sorted(biases, key=site_order))
        self.model: ResidentModel = bench.model
        self.blocks, self.teacher = first_blocks(bench, split, n_blocks)
        self.evaluated = 0
        self._plan, self._thresholds = plan, bench.thresholds(plan)
        self._biases, self._form = biases, form
        self._known: dict[Mask, Scores] = {}
        self._biases_of(frozenset(biases))  # vectors that do not fit are refused here, not in the middle of a search

    def kl_nats(self, mask: Mask) -> float:
        """Mean KL(dense || sparse with this mask) per position, nats.

        Raises:
            SponError: if a site of the mask has no shared bias.
        """
        return self.scores(mask).kl_nats

    def scores(self, mask: Mask) -> Scores:
        """Scores of a mask on the blocks in use.

        Raises:
            SponError: if a site of the mask has no shared bias.
        """
        if mask not in self._known:
            with self._switched_on(mask):
                self._known[mask] = score(self.model, self.blocks, self.teacher)
            self.evaluated += len(self.blocks.tokens)
        return self._known[mask]

    @torch.inference_mode()
    def hidden(self, mask: Mask, rows: slice) -> Tensor:
        """Final hidden states of some of the blocks under a mask: (tokens, hidden) in the model's dtype.

        Raises:
            SponError: if a site of the mask has no shared bias.
        """
        tokens = self.blocks.tokens[rows].to(self.model.device)
        with self._switched_on(mask):
            states = self.model.hidden(tokens)
        self.evaluated += len(tokens)
        return states.flatten(0, 1)

    @contextmanager
    def _switched_on(self, mask: Mask) -> Iterator[None]:
        with sparsified(self.model, self._plan, self._thresholds), biased(self.model, self._biases_of(mask)):
            yield

    def _biases_of(self, mask: Mask) -> SponBiases:
        vectors = warm_start(self._biases, mask)
        biases = SponBiases(self.model, tuple(vectors), self._form)
        biases.load(vectors)
        return biases


@dataclass(frozen=True, eq=False)
class QuadraticProxy:
    """KL of a mask as a second-order model around one mask, the base: all candidates, or none.

    Let h be the final hidden state of a token under the base, and delta_i what flipping site i alone (taking it away
    from all, or adding it to none) adds to h. For a set of flipped sites with indicator r, h moves by about
    delta = sum_i r_i delta_i, and with q = softmax(U h) and the dense model's m and H (``trainables.loss``)

        KL(r) = KL(0) + g . r + r^T C r / 2
        g_i  = mean over tokens of (q U - m) . delta_i
        C_ij = mean over tokens of Cov_q(U delta_i, U delta_j)

    which is the expansion of logsumexp(U h) - h . m - H to second order in delta. Two things are left out: that the
    flips of two sites act on each other inside the model, and higher orders of the softmax. A delta also holds what any
    small change does by taking entries over a threshold or a rounding. Beside weak biases that is not small, C sums it
    up as if it were theirs, and the KL of the mask opposite to the base, which can be run, comes out far too high.

    Attributes:
        sites: the candidates in canonical order, as many as n below.
        base: the mask that the model is exact at.
        constant: KL(0), nats.
        gradient: g of shape (n,), fp64, nats.
        curvature: C of shape (n, n), fp64, nats; symmetric, positive semi-definite.
    """

    sites: tuple[Site, ...]
    base: Mask
    constant: float
    gradient: Array
    curvature: Array

    @classmethod
    @torch.inference_mode()
    def build(cls, scorer: MaskScorer, around: Literal["full", "empty"] = "full") -> "QuadraticProxy":
        """Run the base and each flip of it, n + 1 passes over the scorer's blocks, counted in its ``evaluated``.

        A batch of the model's is finished before the next one starts: (n + 1) x its hidden states are in memory.

        Args:
            scorer: gives candidates, biases and blocks.
            around: the base. ``full`` fits large masks best, ``empty`` small ones.
        """
        sites, base = scorer.candidates, frozenset(scorer.candidates if around == "full" else ())
        head, n = scorer.model.head.float(), len(sites)
        totals = [torch.zeros(shape, dtype=torch.float64, device=head.device) for shape in ((), (n,), (n, n))]
        for rows in scorer.model.batches(scorer.blocks.tokens):
            hidden = scorer.hidden(base, rows).float()
            flipped = torch.stack([scorer.hidden(base ^ {site}, rows) for site in sites], dim=1)
            mean_row, entropy = scorer.teacher.mean_row[rows].flatten(0, 1), scorer.teacher.entropy[rows].flatten()
            sums = expansion(hidden, flipped.float().sub_(hidden[:, None]), head, mean_row, entropy)
            for total, part in zip(totals, sums, strict=True):
                total += part
        n_tokens = scorer.blocks.tokens.numel()
        constant, gradient, curvature = ((total / n_tokens).cpu().numpy() for total in totals)
        return cls(sites, base, float(constant), gradient, curvature)

    def kl_nats(self, mask: Mask) -> float:
        """Modelled KL(dense || sparse with this mask) per position, nats; arithmetic on n numbers.

        Raises:
            SponError: if a site of the mask has no shared bias.
        """
        _check_known(mask, self.sites)
        flips = mask ^ self.base
        r = np.array([site in flips for site in self.sites], dtype=np.float64)
        return float(self.constant + self.gradient @ r + r @ self.curvature @ r / 2)


def expansion(
    hidden: Tensor, deltas: Tensor, head: Tensor, mean_row: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over tokens of KL, g and C (see ``QuadraticProxy``), in nats.

    Products are in the dtype of the arguments, which is one for all; sums over tokens are fp64.

    Args:
        hidden: h of shape (tokens, hidden).
        deltas: delta_i of shape (tokens, n, hidden).
        head: U of shape (vocabulary, hidden).
        mean_row: m of shape (tokens, hidden).
        entropy: H of shape (tokens,).

    Returns:
        fp64 tensors of shapes (), (n,) and (n, n).
    """
    n = deltas.shape[1]
    kl, gradient, curvature = (hidden.new_zeros(shape, dtype=torch.float64) for shape in ((), (n,), (n, n)))
    # A token has n + 1 rows of logits here: as many rows at once as the losses have
    for h, d, m, dense_entropy in zip(
        *(
            rows.split(max(1, CHUNK_TOKENS[hidden.device.type] // (n + 1)))
            for rows in (hidden, deltas, mean_row, entropy)
        ),
        strict=True,
    ):
        logits, shifts = (torch.cat((h[:, None], d), dim=1) @ head.T).split((1, n), dim=1)
        q = logits.softmax(dim=-1)  # (tokens, 1, vocabulary)
        own = (h.double() * m.double()).sum(dim=-1)
        kl += (logits.logsumexp(dim=-1).squeeze(1).double() - own - dense_entropy).sum()
        mean = shifts @ q.mT  # (tokens, n, 1)
        gradient += (mean - d @ m[:, :, None]).squeeze(2).sum(dim=0, dtype=torch.float64)
        # Centred before the product: the softmax does not see what all words share, but fp32 would lose digits to it
        centred = shifts.sub(mean).mul_(q.sqrt())
        curvature += (centred @ centred.mT).sum(dim=0, dtype=torch.float64)
    return kl, gradient, curvature


def _check_known(sites: Iterable[Site], known: Iterable[Site]) -> None:
    """Refuse a site that has no shared bias."""
    have = set(known)
    for site in sites:
        if site not in have:
            listed = ", ".join(str(s) for s in sorted(have, key=site_order)) or "none"
            raise SponError(
                f"a mask must switch on shared biases only, but {site} has none; there are {listed} (at mask)"
            )
