"""One trial, usable without Ray: train between validations, then make the checkpoint.

bench = Workbench(config.model, config.corpus, config.device)
checkpoint = run_trial(bench, config)
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from search_spaces.config import Split
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig, TrialPlan
from trainables.checkpoint import Checkpoint, CheckpointMeta, check_fits, code_commit, library_versions
from trainables.evaluation import score
from trainables.scores import Scores
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.training import Trainer
from trainables.workbench import Workbench

Metrics = dict[str, float]
_HISTORY, _KEPT = "history.json", "kept.safetensors"
TEST_SCORING = "test scoring"
"""The activity of scoring a trial's biases for the report."""
_NO_DAMAGE = 1e-6
"""Least damage that counts, a KL in nats or a perplexity relative to the dense one: about what fp32 logits resolve."""


def recovery(dense: float, teal: float, spon: float) -> float:
    """Share of TEAL's damage that SPON repairs, (teal - spon) / (teal - dense); zero where there is none to repair."""
    damage = teal - dense
    return (teal - spon) / damage if damage > _NO_DAMAGE * max(1.0, dense) else 0.0


def metrics_of(split: str, dense: Scores, teal: Scores, spon: Scores) -> Metrics:
    """The metrics of a split, ``val`` or ``test``, units in the names. Both recoveries are always given together."""
    return {
        f"{split}_kl_nats": spon.kl_nats,
        f"{split}_nll_nats": spon.nll_nats,
        f"{split}_ppl": spon.ppl,
        f"{split}_kl_recovered": recovery(0.0, teal.kl_nats, spon.kl_nats),
        f"{split}_ppl_recovered": recovery(dense.ppl, teal.ppl, spon.ppl),
        f"{split}_teal_kl_nats": teal.kl_nats,
        f"{split}_teal_ppl": teal.ppl,
        f"{split}_dense_ppl": dense.ppl,
    }


class Trial:
    """One trial in progress.

    Raises:
        SponError: if the workbench is of another model or corpus.
    """

    def __init__(self, bench: Workbench, config: TrialConfig) -> None:
        bench.check(config)
        self._bench, self._config = bench, config
        self._sites = tuple(Site.parse(site) for site in config.sites)
        # Before the baselines: in a first sweep, one worker then computes the teacher of the calibration text while the
        # other, whose trial trains nothing, computes that of the validation text
        self._trainer = Trainer(bench, config.plan, self._sites, config.training) if self._sites else None
        self._teal = bench.teal_baseline(config.plan, "validation")
        self._dense = bench.dense_baseline("validation")
        self._history: list[Metrics] = []
        self._kept: Mapping[Site, Tensor] = {}
        self._kept_scores: Scores | None = None

    @property
    def history(self) -> tuple[Metrics, ...]:
        """Metrics of every validation so far."""
        return tuple(self._history)

    @property
    def done(self) -> bool:
        """Whether nothing is left to train: all steps are taken, patience is spent, or there is no bias to train."""
        if not self._history or self._trainer is None:
            return bool(self._history)
        patience = self._config.training.early_stopping_patience
        stale = len(self._history) - 1 - self._best_validation()
        return self._trainer.step >= self._trainer.total_steps or (patience is not None and stale >= patience)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far, in this process and earlier ones."""
        return sum(metrics["seconds"] for metrics in self._history)

    def advance(self, before_each_step: Callable[[], None] = lambda: None) -> Metrics:
        """Train to the next validation and return its metrics; without biased sites, those of TEAL alone.

        Args:
            before_each_step: called before each step; may end the trial by an exception.

        Raises:
            SponError: if training diverges. The trial cannot continue then.
        """
        started = time.perf_counter()
        trained: Metrics = {"step": 0}
        if self._trainer:
            interval = self._config.training.eval_every_steps or self._trainer.steps_per_epoch
            trained = self._trainer.train_until(self._trainer.step + interval, before_each_step)
        scores = self._score(self._trainer.biases) if self._trainer else self._teal.scores
        metrics = trained | metrics_of("val", self._dense, self._teal.scores, scores)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise SponError(
                    f"validation must be finite, but {name} is {value} at step {trained['step']:.0f} (at training.lr)"
                )
        metrics["seconds"] = time.perf_counter() - started
        self._history.append(metrics)
        keep_last = self._config.training.early_stopping_patience is None
        if keep_last or self._best_validation() == len(self._history) - 1:
            self._kept, self._kept_scores = self._trainer.biases.state() if self._trainer else {}, scores
        return metrics

    def finish(self) -> Checkpoint:
        """The checkpoint of a trial that is done: the last biases or, with early stopping, the best."""
        spon = self._kept_scores or self._score_kept()
        thresholds = self._bench.thresholds(self._config.plan)
        meta = CheckpointMeta(
            config=self._config,
            paths={str(site): self._bench.model.shape.sites[site].path for site in self._sites},
            thresholds={str(site): value for site, value in thresholds.items()},
            realised_sparsity=self._teal.realised_sparsity,
            metrics=metrics_of("val", self._dense, self._teal.scores, spon) | self._sparsity(),
            history=tuple(self._history),
            versions=library_versions(),
            commit=code_commit(),
        )
        scores = {"validation.dense": self._dense, "validation.teal": self._teal.scores, "validation.spon": spon}
        return Checkpoint(meta, self._kept, scores)

    def save(self, directory: Path) -> None:
        """Write the state of a trial, finished or not, into a directory."""
        (directory / _HISTORY).write_text(json.dumps(self._history))
        if self._trainer:
            self._trainer.save(directory)
            save_file({str(site): vector for site, vector in self._kept.items()}, directory / _KEPT)

    def load(self, directory: Path) -> None:
        """Continue from a state that ``save`` wrote for the same trial."""
        self._history = json.loads((directory / _HISTORY).read_text())
        if self._trainer:
            self._trainer.load(directory)
            self._kept = {Site.parse(site): vector for site, vector in load_file(directory / _KEPT).items()}
        self._kept_scores = None

    def _sparsity(self) -> Metrics:
        """Realised sparsity, mean over the sites of the plan, weighted by the number of weights of each site."""
        realised = {Site.parse(site): level for site, level in self._teal.realised_sparsity.items()}
        shares = self._bench.model.shape.shares(realised)
        return {"realised_sparsity": sum(shares[site] * level for site, level in realised.items())}

    def _score(self, biases: SponBiases) -> Scores:
        return score_biases(self._bench, self._config.plan, biases, "validation")

    def _score_kept(self) -> Scores:
        """Score the kept biases after ``load``, which restores the biases only."""
        if not self._sites:
            return self._teal.scores
        return self._score(SponBiases.of(self._bench.model, self._kept, self._config.training.form))

    def _best_validation(self) -> int:
        """Index of the validation with the lowest KL so far."""
        kls = [metrics["val_kl_nats"] for metrics in self._history]
        return kls.index(min(kls))


def score_biases(bench: Workbench, plan: TrialPlan, biases: SponBiases, split: Split) -> Scores:
    """Scores of the sparse model with these biases on a split."""
    blocks, teacher = bench.blocks(split), bench.teacher(split)
    with sparsified(bench.model, plan, bench.thresholds(plan), biases):
        return score(bench.model, blocks, teacher, TEST_SCORING if split == "test" else split)


def run_trial(bench: Workbench, config: TrialConfig) -> Checkpoint:
    """Run a trial from start to end.

    Raises:
        SponError: if the workbench is of another model or corpus, or training diverges.
    """
    trial = Trial(bench, config)
    while not trial.done:
        trial.advance()
    return trial.finish()


def report_test(bench: Workbench, checkpoint: Checkpoint) -> Checkpoint:
    """Add the scores and metrics of the test split, which the workbench has open, to a finished trial.

    Raises:
        SponError: if the checkpoint does not fit the workbench, or its test split is closed.
    """
    config = checkpoint.meta.config
    bench.check(config)
    check_fits(checkpoint, bench.model.shape, bench.model.fingerprint)
    dense, teal = bench.dense_baseline("test"), bench.teal_baseline(config.plan, "test").scores
    biases = SponBiases.of(bench.model, checkpoint.biases, config.training.form)
    spon = score_biases(bench, config.plan, biases, "test") if checkpoint.biases else teal
    metrics = checkpoint.meta.metrics | metrics_of("test", dense, teal, spon)
    scores = {"test.dense": dense, "test.teal": teal, "test.spon": spon}
    return Checkpoint(
        checkpoint.meta.model_copy(update={"metrics": metrics}), checkpoint.biases, {**checkpoint.scores, **scores}
    )
