"""What is searched, and how a mask is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints
from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig

Values = tuple[float, ...]
Known = Callable[[TrialConfig, int], Values | None]
"""The objectives of a mask on so many blocks, if it was evaluated before."""
Job = Callable[[TrialConfig, tuple[int, ...]], dict[str, Any]]
"""What Ray's config holds for a mask that is to be evaluated on these rungs."""


@dataclass(frozen=True)
class Task:
    """What is searched, and how a mask is evaluated.

    Attributes:
        space: with a ``search``.
        shape, fingerprints: of the model and the text.
        rungs: validation blocks of the proxy's rungs; none where masks are trained.
        known: looks a mask up.
        job: makes Ray's config of a mask.
        counts: file of the counts.
    """

    space: SpaceConfig
    shape: ModelShape
    fingerprints: Fingerprints
    rungs: tuple[int, ...]
    known: Known
    job: Job
    counts: Path

    @property
    def full(self) -> int:
        """Blocks of the last rung; none where masks are trained."""
        return self.rungs[-1] if self.rungs else 0
