"""Outcomes of a search's proposals so far."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from search_spaces.files import write_whole


@dataclass
class Counts:
    """Outcomes of a search's proposals. The searcher updates them and writes them to a file for others to read.

    Attributes:
        new: handed out for evaluation.
        open: handed out and still under way.
        repeated: known already, from this search or an earlier one, or under way; answered at once and not run.
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
        """Proposals whose evaluation has ended."""
        return self.new - self.open

    @property
    def done(self) -> bool:
        """Whether the search has ended and nothing is under way."""
        return self.ended and not self.open

    @property
    def set_aside(self) -> str:
        """Describe the proposals that cost nothing."""
        return f"{self.repeated} known and not run"

    @classmethod
    def read(cls, path: Path) -> "Counts":
        """Read the counts from a file; zeros if there is none."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Write the counts to a file."""
        write_whole(path, json.dumps(asdict(self)))
