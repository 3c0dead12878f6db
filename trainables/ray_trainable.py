"""The thin adapter that Ray Tune runs: one actor, one resident model, one trial after another."""

from pathlib import Path
from typing import Any

import torch
from ray import tune

from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from trainables.checkpoint import write_checkpoint
from trainables.cost import claim_gpu, gpu_bytes
from trainables.model import find_model, read_shape
from trainables.trial import Trial
from trainables.workbench import Workbench

FAILURE = "failure"
"""Key of the reason in the last result of a trial that failed for a reason that a retry would not mend."""


class SponTrainable(tune.Trainable):
    """One SPON trial in Ray Tune's terms; a ``step`` is the training between two validations.

    Config: ``trial`` (a ``TrialConfig`` dumped as JSON types), ``threads`` (torch threads, the CPUs of the trial) and
    ``gpus`` (its share of a GPU).

    With ``reuse_actors`` the workbench stays when the next trial comes, so the model is loaded once per worker.
    A fault that the user must mend, or a loss that is not finite, ends the trial with a result that has ``failure``.
    Everything else (a killed worker, a bug) is an exception, which Ray retries and reports.
    """

    _bench: Workbench | None = None
    _made_for: tuple[Any, ...] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the actor's first trial."""
        torch.set_num_threads(config["threads"])
        self._gpus = float(config["gpus"])
        self._begin(TrialConfig.model_validate(config["trial"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same actor."""
        self._begin(TrialConfig.model_validate(new_config["trial"]))
        return True

    def _begin(self, config: TrialConfig) -> None:
        self._trial: Trial | None = None
        self._failure: str | None = None
        try:
            wanted = (config.model, config.corpus, config.device)
            if self._made_for != wanted:
                if config.device == "cuda":
                    self._claim_gpu(config)
                self._bench, self._made_for = Workbench(*wanted), wanted
            assert self._bench is not None
            self._trial = Trial(self._bench, config)
        except SponError as error:
            self._failure = str(error)

    def _claim_gpu(self, config: TrialConfig) -> None:
        shape, blocks = read_shape(find_model(config.model)), config.corpus.blocks
        tokens = (blocks.calibration + blocks.validation) * config.corpus.block_size
        claim_gpu(gpu_bytes(shape, config.model.dtype, config.corpus.block_size, tokens, config.training), self._gpus)

    def step(self) -> dict[str, Any]:
        """Train to the next validation; a trial that is taken up after its end just says so again."""
        if self._trial is None or self._failure is not None:
            return {FAILURE: self._failure, "done": True}
        try:
            metrics = self._trial.history[-1] if self._trial.done else self._trial.advance()
        except SponError as error:
            self._failure = str(error)
            return {FAILURE: self._failure, "done": True}
        return {**metrics, "done": self._trial.done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of the trial and, at its end, its checkpoint."""
        directory = Path(checkpoint_dir)
        if self._trial is None or self._failure is not None:
            (directory / FAILURE).write_text(self._failure or "")
            return
        self._trial.save(directory)
        if self._trial.done:
            write_checkpoint(self._trial.finish(), directory)

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # Ray's older form is a dict
        """Go on where the trial was; one that failed is taken up as failed."""
        failure = Path(checkpoint_dir) / FAILURE
        if failure.exists():
            self._failure = failure.read_text()
        elif self._trial is not None:
            self._trial.load(Path(checkpoint_dir))
