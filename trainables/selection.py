"""``selection.json``: what a search chose, and how that compares on the test split."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.base import Config
from search_spaces.files import read_config, write_config
from trainables.statistics import Interval

SELECTION = "selection.json"
Perplexity = Annotated[float, Field(allow_inf_nan=True)]
Role = Literal["chosen", "named", "control"]


class Selected(Config):
    """A mask of the final comparison; figures are means over its seeds.

    Attributes:
        role: chosen by the search, an allocation of the space, or a control.
        checkpoints: one per seed, relative to the file.
        test_kl_recovered, test_ppl_recovered: shares of TEAL's damage that it repairs, with 95% intervals; None where
            that damage is not certain.
    """

    name: str
    role: Role
    sites: tuple[str, ...]
    n_spon_params: int
    seeds: tuple[int, ...]
    checkpoints: tuple[str, ...]
    val_kl_nats: float
    test_kl_nats: float
    test_nll_nats: float
    test_ppl: Perplexity
    test_kl_recovered: Interval | None
    test_ppl_recovered: Interval | None


class Difference(Config):
    """A chosen mask minus another on the test split, paired over the text, in nats per token. Below zero is better.

    Attributes:
        kl_nats, nll_nats: with intervals that hold for all differences together, on other text and, if there are
            several seeds, with other seeds.
        kl_nats_by_seed: the difference for each seed alone.
    """

    chosen: str
    against: str
    kl_nats: Interval
    nll_nats: Interval
    kl_nats_by_seed: tuple[float, ...]


class Selection(Config):
    """The final comparison, under the search's one sparsity plan.

    Attributes:
        confidence: of each interval, such that all hold together with 95% (Bonferroni).
        bootstrap_over: what the intervals resample.
        best_rival: for each chosen mask, the space's own allocation with the lowest validation KL among those with no
            more sites, or no more parameters where these are an objective; None if there is none.
    """

    schema_version: Literal[2] = 2
    sweep: str
    plan: str
    teal_test_kl_nats: float
    teal_test_ppl: Perplexity
    dense_test_ppl: Perplexity
    confidence: float
    bootstrap_over: Literal["documents", "blocks"]
    masks: tuple[Selected, ...]
    differences: tuple[Difference, ...]
    best_rival: dict[str, str | None]


def write_selection(selection: Selection, directory: Path) -> Path:
    """Write the file into a sweep's folder."""
    file = directory / SELECTION
    write_config(selection, file)
    return file


def read_selection(file: Path) -> Selection:
    """Read the file.

    Raises:
        SponError: if it is missing or of another schema.
    """
    return read_config(Selection, file, f"a selection must be the {SELECTION} of a search")
