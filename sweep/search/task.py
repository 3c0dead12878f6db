"""The search task: what to search, and how to evaluate a mask."""

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
"""Returns the objectives of a mask on this many blocks, if it was evaluated before."""
Job = Callable[[TrialConfig, tuple[int, ...]], dict[str, Any]]
"""Makes Ray's config to evaluate a mask on these rungs."""


@dataclass(frozen=True)
class Task:
    """What to search, and how to evaluate a mask.

    Attributes:
        space: with a ``search``.
        shape, fingerprints: of the model and the text.
        rungs: validation blocks of the proxy's rungs, empty if masks are trained.
        known: looks a mask up.
        job: makes Ray's config of a mask.
        counts: file with the counts of the proposals.
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
        """Blocks of the last rung, 0 if masks are trained."""
        return self.rungs[-1] if self.rungs else 0
