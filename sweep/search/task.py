"""What is searched, how a mask is evaluated, and what became of the proposals so far."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces.files import write_whole
from search_spaces.resolve import Fingerprints
from search_spaces.schema import SpaceConfig, TrialConfig
from search_spaces.sites import ModelShape

Values = tuple[float, ...]
Known = Callable[[TrialConfig, int], Values | None]
"""The objectives of a mask on so many blocks, if it was evaluated before."""
Job = Callable[[TrialConfig, tuple[int, ...]], dict[str, Any]]
"""What Ray's config holds for a mask that is to be evaluated on these rungs."""


@dataclass
class Counts:
    """What became of the proposals. The searcher keeps it, and writes it to a file for all others to read.

    Attributes:
        new: given out to be evaluated.
        open: of these, under way.
        repeated: known already, from this search or an earlier one, or under way: told at once and not run.
        strayed: drawn at random because the sampler only repeated itself.
        ended: there is nothing more to propose, or the budget is spent.
    """

    new: int = 0
    open: int = 0
    repeated: int = 0
    strayed: int = 0
    ended: bool = False

    @property
    def over(self) -> int:
        """Evaluated to their end."""
        return self.new - self.open

    @property
    def done(self) -> bool:
        """Whether the search came to its end."""
        return self.ended and not self.open

    @property
    def set_aside(self) -> str:
        """For people: proposals that cost nothing."""
        return f"{self.repeated} known and not run"

    @classmethod
    def read(cls, path: Path) -> "Counts":
        """The counts in a file; zeros if there is none."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Keep the counts."""
        write_whole(path, json.dumps(asdict(self)))


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
