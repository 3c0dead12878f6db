"""Compares a board with published figures, such as those of the seed study (``docs/study.yaml``)."""

from pathlib import Path

import pandas as pd
import yaml
from pydantic import ValidationError

from search_spaces.base import Config
from search_spaces.config import Level
from search_spaces.errors import SponError
from search_spaces.files import first_fault
from sweep.views.render import interval


class _Row(Config):
    allocation: str
    sparsity: Level
    ppl: float
    vs_teal_pct: float


class Published(Config):
    """Published figures.

    Attributes:
        source: the publication.
        rows: perplexity of each allocation and sparsity, and its change against TEAL alone under the same plan, in %.
    """

    source: str
    rows: tuple[_Row, ...]


def read_published(file: Path) -> Published:
    """Read published figures from a YAML file.

    Raises:
        SponError: if the file is missing or has another form.
    """
    try:
        return Published.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise SponError(f"published figures must have source and rows, but {first_fault(error)} (at {file})") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SponError(f"published figures must be a YAML file, but {reason} (at {file})") from error


def as_text(board: pd.DataFrame, published: Published) -> str:
    """The rows of the board beside the published ones of the same allocation and sparsity.

    Raises:
        SponError: if there are none.
    """
    theirs = {(row.allocation, row.sparsity): row for row in published.rows}
    lines = []
    for _, own in board.iterrows():
        row = theirs.get((own["allocation"], own["sparsity"]))
        if row is not None:
            lines.append(
                {
                    "allocation": own["allocation"],
                    "plan": own["plan"],
                    "seed": own["seed"],
                    "PPL": interval(own, "ppl", ".2f"),
                    "theirs": f"{row.ppl:.2f}",
                    "vs TEAL %": interval(own, "vs_teal_pct", "+.2f"),
                    "theirs ": f"{row.vs_teal_pct:+.2f}",
                }
            )
    if not lines:
        raise SponError(f"an allocation and a sparsity must be in both, but none of {published.source} is in the board")
    return f"theirs: {published.source}\n{pd.DataFrame(lines).to_string(index=False)}"
