"""What became of a search's proposals so far."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from search_spaces.files import write_whole


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
