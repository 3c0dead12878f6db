"""One resident model in three modes: dense, TEAL alone, and TEAL with the biases of a checkpoint."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Literal, get_args

import torch
from transformers import PreTrainedTokenizerBase

from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from trainables.checkpoint import Checkpoint, check_fits
from trainables.model.resident import ResidentModel, find_model, load_model, load_tokenizer
from trainables.sparse import sparsified
from trainables.spon import SponBiases

Mode = Literal["dense", "teal", "spon"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Resident:
    """A checkpoint on its model. Thresholds come from training, so the corpus is not needed."""

    checkpoint: Checkpoint
    model: ResidentModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def config(self) -> TrialConfig:
        """The trial."""
        return self.checkpoint.meta.config

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """Put the model in one of the three modes while the block runs."""
        if mode == "dense":
            yield
            return
        thresholds = {Site.parse(site): value for site, value in self.checkpoint.meta.thresholds.items()}
        biases = SponBiases.of(self.model, self.checkpoint.biases, self.config.training.form)
        with sparsified(self.model, self.config.plan, thresholds, biases if mode == "spon" else None):
            yield


def make_resident(checkpoint: Checkpoint) -> Resident:
    """Load the model of a checkpoint, on a GPU if there is one.

    Raises:
        SponError: if the model is unavailable or has changed.
    """
    config = checkpoint.meta.config
    source = find_model(config.model)
    with quiet():
        model = load_model(source, config.model.dtype, "cuda" if torch.cuda.is_available() else "cpu")
    check_fits(checkpoint, model.shape, model.fingerprint)
    return Resident(checkpoint, model, load_tokenizer(source))


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars of libraries unless stderr is a terminal."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(StringIO()):
        yield
