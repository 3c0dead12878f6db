"""The workbench: a resident model with its text, teacher statistics, thresholds and baselines.

It is made once per process and shared by its trials. Expensive parts are made on first use and, where they do not
depend on the trial, kept in the local cache.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from search_spaces.config import EMBEDDED, CorpusConfig, ModelConfig, Split
from search_spaces.errors import SponError
from search_spaces.resolve import Fingerprints
from search_spaces.sites import ModelShape, Site
from search_spaces.trial import TrialConfig, TrialPlan
from trainables.cache import cached, content_key
from trainables.curves import LEVELS, Curves, fisher_curves
from trainables.demo import embedded
from trainables.evaluation import dense_scores, score
from trainables.model.resident import ModelSource, check_device, find_model, load_model, load_tokenizer, read_shape
from trainables.scores import Scores
from trainables.sparse import sparsified
from trainables.teacher import Teacher, teacher_of
from trainables.teal import SparsityMeter, magnitude_histograms, mean_removed, quantile_threshold
from trainables.text.corpus import Blocks, corpus_fingerprint, load_blocks, prepare_corpus

_SCHEMA = 3
"""Version of the cached histograms and baselines. Raise it when the same inputs give different ones."""
_MEANS = 2
"""The same for the cached means of what sparsification removes."""


@dataclass(frozen=True)
class Materials:
    """The model and corpus of a trial, found and fingerprinted without loading weights."""

    model: ModelSource
    shape: ModelShape
    corpus: Path
    fingerprints: Fingerprints


def find_materials(model: ModelConfig, corpus: CorpusConfig) -> Materials:
    """Find the model, and cut the corpus into blocks if they are not cached.

    Raises:
        SponError: if either is missing, gated or of the wrong form.
    """
    both = model.source == corpus.source == EMBEDDED
    with embedded.text_ahead() if both else nullcontext():
        source = find_model(model)
        shape = read_shape(source)
        prepared = prepare_corpus(corpus, partial(load_tokenizer, source), source.fingerprint)
    return Materials(source, shape, prepared, Fingerprints(source.fingerprint, corpus_fingerprint(prepared)))


@dataclass(frozen=True)
class Baseline:
    """A model without biases on one split.

    Attributes:
        scores: per block and document.
        realised_sparsity: fraction really zeroed at each site.
    """

    scores: Scores
    realised_sparsity: dict[str, float]


class Workbench:
    """Everything that trials of one model and corpus share in a process.

    Args:
        model: which model, in which dtype.
        corpus: which text.
        device: ``cpu`` or ``cuda``.
        open_test: whether the test split can be read, which only the final report does.

    Raises:
        SponError: if the device, the model or the text is not available.
    """

    def __init__(self, model: ModelConfig, corpus: CorpusConfig, device: str, open_test: bool = False) -> None:
        check_device(device)
        self.materials = find_materials(model, corpus)
        self.model = load_model(self.materials.model, model.dtype, device)
        self._open_test = open_test
        self._blocks: dict[Split, Blocks] = {}
        self._teachers: dict[tuple[Split, float], Teacher] = {}
        self._thresholds: dict[str, dict[Site, float]] = {}

    def check(self, config: TrialConfig) -> None:
        """Refuse a trial of another model or corpus.

        Raises:
            SponError: naming both fingerprints.
        """
        mine = self.materials.fingerprints
        for what, want, have in (
            ("model", config.model_fingerprint, mine.model),
            ("corpus", config.corpus_fingerprint, mine.corpus),
        ):
            if want != have:
                raise SponError(f"a trial must run on its own {what}, but it was made for {want} and this is {have}")

    def blocks(self, split: Split) -> Blocks:
        """Token blocks of a split.

        Raises:
            SponError: if it is the test split, and that is not open.
        """
        self._check_open(split)
        if split not in self._blocks:
            self._blocks[split] = load_blocks(self.materials.corpus, split)
        return self._blocks[split]

    def teacher(self, split: Split, temperature: float = 1.0) -> Teacher:
        """Teacher statistics of a split."""
        key = (split, temperature)
        if key not in self._teachers:
            self._teachers[key] = teacher_of(self.model, self.blocks(split).tokens, split, temperature)
        return self._teachers[key]

    def thresholds(self, plan: TrialPlan) -> dict[Site, float]:
        """The threshold of every site of a plan, calibrated on the dense model; empty for the rule ``topk``."""
        if plan.rule == "topk" or not plan.levels:
            return {}
        name = plan.model_dump_json()
        if name not in self._thresholds:
            found = {s: quantile_threshold(of, plan.levels[str(s)]) for s, of in self._histograms(plan).items()}
            self._thresholds[name] = found
        return self._thresholds[name]

    def _histograms(self, plan: TrialPlan) -> dict[Site, Tensor]:
        """Histograms of |x| at every site of a plan, over its calibration blocks."""
        sites = [Site.parse(text) for text in plan.levels]
        tokens = self.blocks("calibration").tokens[: plan.calibration_blocks]
        prefix = plan.dense_prefix(tokens.shape[1])
        key = content_key(*self._identity(), list(plan.levels), len(tokens), prefix)

        def measure() -> dict[str, Tensor]:
            return {"histograms": magnitude_histograms(self.model, tokens, sites, prefix).cpu()}

        return dict(zip(sites, _kept("histograms", key, "histograms", measure)["histograms"], strict=True))

    def fisher_curves(self, plan: TrialPlan, numbers: Sequence[int], draws: int = 1) -> Curves:
        """KL cost of each level at each site of a plan, on some calibration blocks, kept on disk.

        Args:
            plan: sparsity plan, whose levels are ignored.
            numbers: indices of the blocks.
            draws: number of label draws.
        """
        sites = tuple(Site.parse(text) for text in plan.levels)
        tokens = self.blocks("calibration").tokens[list(numbers)]
        open_levels = plan.model_dump(exclude={"levels"})
        key = content_key(*self._identity(), open_levels, list(plan.levels), list(numbers), draws)

        def measure() -> dict[str, Tensor]:
            histograms = self._histograms(plan) if plan.rule == "threshold" else {}
            cuts = {s: torch.tensor([quantile_threshold(h, level) for level in LEVELS]) for s, h in histograms.items()}
            return {"cost": torch.from_numpy(fisher_curves(self.model, plan, cuts, tokens, numbers, draws).cost)}

        return Curves(sites, _kept("curves", key, "curves", measure)["cost"].numpy(), tokens.numel())

    def mean_removed(self, plan: TrialPlan) -> dict[Site, Tensor]:
        """E[x - S(x)] of every site of a plan over its sparsified positions, (in_features,) fp64, in the dense model.

        Over the blocks that calibrate the plan's thresholds, or over all calibration text where it has none.
        """
        tokens = self.blocks("calibration").tokens[: plan.calibration_blocks or None]

        def measure() -> dict[str, Tensor]:
            means = mean_removed(self.model, plan, self.thresholds(plan), tokens)
            return {str(site): mean for site, mean in means.items()}

        found = _kept("means", content_key(_MEANS, *self._identity(), plan.model_dump()), "means", measure)
        return {Site.parse(name): mean for name, mean in found.items()}

    def dense_baseline(self, split: Split) -> Scores:
        """Scores of the dense model."""
        return dense_scores(self.teacher(split), self.blocks(split))

    def teal_baseline(self, plan: TrialPlan, split: Split) -> Baseline:
        """Scores of the sparse model without biases, computed once per (model, device, corpus, plan) and kept on disk.

        A plan that sparsifies nothing has the dense model's scores, without the rounding of another pass.

        Raises:
            SponError: if it is the test split, and that is not open.
        """
        self._check_open(split)  # the cache on disk may hold what this workbench must not see
        if not plan.levels:
            return Baseline(self.dense_baseline(split), {})
        key = content_key(*self._identity(), plan.model_dump(), split)
        tensors = _kept("baselines", key, "scores", lambda: self._measure_baseline(plan, split))
        realised = tensors.pop("realised_sparsity").tolist()
        return Baseline(Scores(**tensors), dict(zip(plan.levels, realised, strict=True)))

    def _measure_baseline(self, plan: TrialPlan, split: Split) -> dict[str, Tensor]:
        meter = SparsityMeter()
        blocks, teacher = self.blocks(split), self.teacher(split)
        with sparsified(self.model, plan, self.thresholds(plan), meter=meter):
            scores = score(self.model, blocks, teacher, f"baseline of the {split} text")
        realised = torch.tensor([meter.realised()[site] for site in plan.levels], dtype=torch.float64)
        return {**scores.tensors(), "realised_sparsity": realised}

    def _check_open(self, split: Split) -> None:
        if split == "test" and not self._open_test:
            raise SponError("the test split is for the final report only, but a trial asked for it")

    def _identity(self) -> tuple[int, str, str, str, str]:
        prints = self.materials.fingerprints
        return _SCHEMA, prints.model, str(self.model.network.dtype), self.model.device.type, prints.corpus


def _kept(kind: str, key: str, name: str, measure: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Load tensors from the cache, measuring them first if they are missing."""
    file = f"{name}.safetensors"
    return load_file(cached(kind, key, lambda directory: save_file(measure(), directory / file)) / file)
