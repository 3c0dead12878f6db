"""Measures how well the text of a search tells its masks apart, before the search starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sweep.search.mask_log import MaskRecord
from trainables.statistics import reliability

_SIGMAS = 1.96 + 0.84
"""Standard errors that a difference must span to show with 95% confidence in four of five cases."""


@dataclass(frozen=True)
class Power:
    """How well masks that span a search can be told apart.

    Attributes:
        n_masks, n_blocks, block_size: number of masks, and amount of text.
        reliability: of their ranking by KL on all this text: Spearman between halves of the blocks, as the mean over
            random halves, stepped up to the whole (Spearman 1910, Brown 1910). None below three masks.
        kl_nats: mean KL of the masks.
        paired_sd_nats: standard deviation of the difference between two masks on one block, median over pairs.
    """

    n_masks: int
    n_blocks: int
    block_size: int
    reliability: float | None
    kl_nats: float
    paired_sd_nats: float

    @property
    def visible_share(self) -> float:
        """Smallest difference between two masks that this text shows in four of five cases, as a share of the KL."""
        return _SIGMAS * self.paired_sd_nats / float(np.sqrt(self.n_blocks)) / self.kl_nats

    def blocks_to_see(self, share: float) -> int:
        """Number of blocks that show a difference of this share of the KL in four of five cases."""
        return int(np.ceil((_SIGMAS * self.paired_sd_nats / (share * self.kl_nats)) ** 2))

    def blocks_for(self, reliability: float) -> int | None:
        """Number of blocks that would rank the masks with this reliability. None if the masks do not differ at all."""
        if self.reliability is None or self.reliability <= 0:
            return None
        odds = reliability / (1 - reliability) * (1 - self.reliability) / self.reliability
        return int(np.ceil(odds * self.n_blocks))

    def tells(self, least: float) -> bool:
        """Whether the ranking of the masks has at least this reliability. Always true at 0, and without a figure."""
        return least == 0 or self.reliability is None or self.reliability >= least


def power_of(records: Sequence[MaskRecord], block_size: int) -> Power | None:
    """Measure the power on scores of masks on the same blocks of so many tokens. None below two masks or blocks."""
    if len(records) < 2 or records[0].blocks < 2:
        return None
    kl = np.array([record.block_kl_nats for record in records])
    sds = [(one - other).std(ddof=1) for one, other in combinations(kl, 2)]
    sd, mean = float(np.median(sds)), float(kl.mean())
    return Power(len(kl), kl.shape[1], block_size, reliability(kl), mean, sd)


def power_lines(power: Power) -> list[str]:
    """Summary for the user."""
    tokens = power.n_blocks * power.block_size
    ranked = "not defined" if power.reliability is None else f"{power.reliability:.2f}"
    return [
        f"can the text tell: {power.n_masks} masks that span the search, on {power.n_blocks} blocks "
        f"({tokens:,} tokens), are ranked with a reliability of {ranked} (1 is perfect)",
        f"two masks must differ by {power.visible_share:.1%} of their KL to be told apart on this text; "
        f"1% takes {power.blocks_to_see(0.01) * power.block_size:,} tokens",
    ]
