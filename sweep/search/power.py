"""Can the text tell? How well the text of a search tells its masks apart, before the search starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sweep.search.mask_log import MaskRecord
from trainables.statistics import reliability

_SIGMAS = 1.96 + 0.84
"""Standard errors that a difference must have to be seen with 95% confidence in four of five cases."""


@dataclass(frozen=True)
class Power:
    """How well masks that span a search can be told apart.

    Attributes:
        n_masks, n_blocks, block_size: how many masks, on how much text.
        reliability: of their KL on all this text, as a ranking: Spearman between halves of the blocks, mean over random
            halves, stepped up to the whole (Spearman 1910, Brown 1910). None below three masks.
        kl_nats: mean KL of the masks.
        paired_sd_nats: standard deviation of the difference of two masks on one block, median over pairs.
    """

    n_masks: int
    n_blocks: int
    block_size: int
    reliability: float | None
    kl_nats: float
    paired_sd_nats: float

    @property
    def visible_share(self) -> float:
        """Smallest difference of two masks that this text shows in four of five cases, as a share of the KL."""
        return _SIGMAS * self.paired_sd_nats / float(np.sqrt(self.n_blocks)) / self.kl_nats

    def blocks_to_see(self, share: float) -> int:
        """Blocks that show a difference of a share of the KL in four of five cases."""
        return int(np.ceil((_SIGMAS * self.paired_sd_nats / (share * self.kl_nats)) ** 2))

    def blocks_for(self, reliability: float) -> int | None:
        """Blocks on which the masks would be ranked with a reliability; None where they do not differ at all."""
        if self.reliability is None or self.reliability <= 0:
            return None
        odds = reliability / (1 - reliability) * (1 - self.reliability) / self.reliability
        return int(np.ceil(odds * self.n_blocks))

    def tells(self, least: float) -> bool:
        """Whether the masks are ranked with this reliability at least; of 0, and of two masks, nothing is asked."""
        return least == 0 or self.reliability is None or self.reliability >= least


def power_of(records: Sequence[MaskRecord], block_size: int) -> Power | None:
    """Measure it on the scores of some masks, all on the same blocks; None below two masks or two blocks.

    Args:
        records: of the masks.
        block_size: tokens of a block.
    """
    if len(records) < 2 or records[0].blocks < 2:
        return None
    kl = np.array([record.block_kl_nats for record in records])
    sds = [(one - other).std(ddof=1) for one, other in combinations(kl, 2)]
    sd, mean = float(np.median(sds)), float(kl.mean())
    return Power(len(kl), kl.shape[1], block_size, reliability(kl), mean, sd)


def power_lines(power: Power) -> list[str]:
    """For people: what the text can tell."""
    tokens = power.n_blocks * power.block_size
    ranked = "not defined" if power.reliability is None else f"{power.reliability:.2f}"
    return [
        f"can the text tell: {power.n_masks} masks that span the search, on {power.n_blocks} blocks "
        f"({tokens:,} tokens), are ranked with a reliability of {ranked} (1 is perfect)",
        f"two masks must differ by {power.visible_share:.1%} of their KL to be told apart on this text; "
        f"1% takes {power.blocks_to_see(0.01) * power.block_size:,} tokens",
    ]
