"""The config schema: everything a user can write in a space, and the resolved trial that it becomes."""

import hashlib
import json
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.placement import AllocationConfig, Level, LevelMethod, PlanConfig, Seed, TokenPolicy
from search_spaces.search_config import SearchConfig
from search_spaces.sites import Site, module_label
from search_spaces.sources import (
    EMBEDDED,
    SPLITS,
    BlockCounts,
    Config,
    CorpusConfig,
    ModelConfig,
    ResourcesConfig,
    Split,
)

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "AllocationConfig",
    "BlockCounts",
    "Config",
    "CorpusConfig",
    "Level",
    "ModelConfig",
    "PlanConfig",
    "ResourcesConfig",
    "SearchConfig",
    "SpaceConfig",
    "Split",
    "TrainingConfig",
    "TrialConfig",
    "TrialPlan",
]


class TrainingConfig(Config):
    """How the biases are trained (SPON, arXiv:2512.12744; defaults are the seed study's)."""

    form: Literal["output_bias", "input_vector"] = "output_bias"
    """``output_bias`` trains b; ``input_vector`` trains a with b = W a (the paper's form)."""
    init: Literal["zero", "bias_correction"] = "zero"
    """Where training starts: ``zero``, where the model is the TEAL-only one, or ``bias_correction``, the mean of what
    sparsification takes from a site's output (``trainables.teal.mean_removed``).
    """
    init_scale: float = Field(default=0.5, gt=0, le=1)
    """Share of that mean to start from."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions; the loss is scaled by its square."""
    batch_size: int = Field(default=8, ge=1)
    """Blocks in one forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes in one optimiser step."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the calibration blocks."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps at most; ends training inside an epoch."""
    lr: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate at its peak."""
    gain_lr: float = Field(default=0.0, ge=0)
    """Learning rate of a gain of each site on its start, which fewer tokens can tell than each of its entries. At 0
    there are no gains.
    """
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The joint norm of the gradient is clipped to this."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises in a straight line."""
    eval_every_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between validations; each epoch by default."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Validations without a lower KL before training ends; the best biases are then kept."""
    seed: Seed = 42
    """Seed of the data order. A space sets it by ``seeds``."""

    @model_validator(mode="after")
    def _gains_need_a_start(self) -> "TrainingConfig":
        if self.gain_lr and self.init == "zero":
            raise ValueError(f"gain_lr must be 0 with init: zero, which has no start to scale, but got {self.gain_lr}")
        return self


class SpaceConfig(Config):
    """A sweep: one model, one corpus, and the grid of sparsities x allocations x seeds to train."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the sweep: of its folder under the storage directory and its parent run in MLflow."""
    model: ModelConfig = ModelConfig()
    """The causal LM."""
    corpus: CorpusConfig = CorpusConfig()
    """The text."""
    plan: PlanConfig = PlanConfig()
    """What is sparsified, and how."""
    sparsity: tuple[Level, ...] = Field(min_length=1)
    """Shares of the input entries that are set to zero, each a plan of its own."""
    allocations: tuple[AllocationConfig, ...] = Field(min_length=1)
    """Which sites carry a bias, each a trial of its own."""
    seeds: tuple[Seed, ...] = Field(default=(42,), min_length=1)
    """Data orders; each allocation is trained once for each."""
    training: TrainingConfig = TrainingConfig()
    """How biases are trained."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial asks of the machine or the cluster."""
    search: SearchConfig | None = None
    """Which other masks are searched, if any."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> "SpaceConfig":
        lists: dict[str, list[object]] = {
            "an allocation": [a.label for a in self.allocations],
            "a sparsity": list(self.sparsity),
            "a seed": list(self.seeds),
        }
        for what, values in lists.items():
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} must be listed once, but {twice} is listed twice")
        return self

    @model_validator(mode="after")
    def _nothing_is_overruled(self) -> "SpaceConfig":
        if "seed" in self.training.model_fields_set and self.seeds != (self.training.seed,):
            got = f"training.seed={self.training.seed}, seeds={list(self.seeds)}"
            raise ValueError(f"a seed must be given as seeds, which overrule training.seed, but got {got}")
        for allocation in self.allocations:
            unknown = [method for method in allocation.levels or () if method not in self.plan.methods]
            if unknown:
                got = f"{allocation.name} with {unknown[0]}, plan.levels={list(self.plan.levels)}"
                raise ValueError(f"levels of an allocation must be among those of the plan, but got {got}")
        low, high = self.plan.bounds
        outside = [s for s in self.sparsity if self.plan.is_measured and not low <= s <= high]
        if outside:
            got = f"sparsity {outside[0]:g}, plan.bounds={list(self.plan.bounds)}"
            raise ValueError(f"a mean of levels must lie within their bounds, but got {got}")
        return self

    @model_validator(mode="after")
    def _search_fits_the_rest(self) -> "SpaceConfig":
        if self.search is not None:
            self.search.check_beside(self.plan, self.sparsity, self.corpus.blocks.validation)
            if self.seeds[0] in self.search.confirm.seeds:
                got = f"seeds={list(self.seeds)}, search.confirm.seeds={list(self.search.confirm.seeds)}"
                raise ValueError(f"search.confirm must have other seeds than the one that chooses, but got {got}")
        return self


class TrialPlan(Config):
    """A sparsity plan with nothing left open.

    Attributes:
        levels: sparsity of each sparsified site, in canonical order; sites at zero are left out.
    """

    levels: dict[str, Level]
    rule: Literal["topk", "threshold"]
    tokens: TokenPolicy
    calibration_blocks: int

    def dense_prefix(self, length: int) -> int:
        """Positions at the start of a sequence of ``length`` tokens that stay dense under the token policy."""
        return length // 2 if self.tokens == "second_half" else 0


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


ALGORITHM = 3
"""Of the trials that this code runs; raise it when the same config gives another result."""


class TrialConfig(Config):
    """One trial with nothing left open: what ``trainables`` runs, what a checkpoint records, what identifies it.

    Attributes:
        model_fingerprint, corpus_fingerprint: content hashes (of ``ModelSource`` and ``corpus_fingerprint``).
        allocation: the name shown to people; it is not part of the identity.
        sites: biased sites in canonical order; none for TEAL alone.
        num_layers: depth of the model.
        sparsity: the sweep's level, for tables.
        level_method: how it is spread over the sites, for tables; none where the levels are the user's own.
        device: kind of device that the trial runs on; another kind rounds otherwise.
        algorithm: ``ALGORITHM`` of the code that the trial was made for, which is raised when the same config gives
            another result. The identity includes it, and the device.
    """

    model: ModelConfig
    model_fingerprint: str
    corpus: CorpusConfig
    corpus_fingerprint: str
    plan: TrialPlan
    sparsity: Level
    level_method: LevelMethod | None = "uniform"
    allocation: str
    sites: tuple[str, ...]
    num_layers: int
    n_spon_params: int
    relative_params: float
    training: TrainingConfig
    device: Literal["cpu", "cuda"] = "cpu"
    algorithm: int = 1

    @field_validator("model")
    @classmethod
    def _dtype_is_decided(cls, model: ModelConfig) -> ModelConfig:
        if model.dtype == "auto":
            raise ValueError("a resolved trial must name its dtype, but got auto")
        return model

    @property
    def plan_label(self) -> str:
        """Modules, level and what differs from the default policy, such as ``down_proj@0.50 threshold``.

        Levels of one's own that differ are given by the lowest, the highest and a hash: those are other plans.
        """
        plan, values = self.plan, sorted(set(self.plan.levels.values()))
        if self.level_method in ("greedy", "fisher"):
            level = f"{self.sparsity:.2f} {self.level_method}"
        else:
            level = "-".join(f"{v:.2f}" for v in dict.fromkeys((values[0], values[-1]))) if values else "0.00"
            level += f"#{_hash(plan.levels)[:4]}" if len(values) > 1 else ""
        tokens = "" if plan.tokens == "all" else f" {plan.tokens}"
        return f"{self.plan_modules}@{level} {plan.rule}{tokens}"

    @property
    def plan_modules(self) -> str:
        """The module types that are sparsified; ``all`` for the seven."""
        return module_label(dict.fromkeys(Site.parse(site).module for site in self.plan.levels)) or "dense"

    @property
    def identity(self) -> str:
        """Hash of what decides the result: two ways to say the same trial have one identity, and are trained once."""
        decides = {
            "algorithm": self.algorithm,
            "device": self.device,
            "model": self.model_fingerprint,
            "dtype": self.model.dtype,
            "corpus": self.corpus_fingerprint,
            "plan": self.plan.model_dump() if self.plan.levels else None,
            "sites": self.sites,
            "training": self._training_that_decides() if self.sites else None,
        }
        return _hash(decides)[:16]

    def _training_that_decides(self) -> dict[str, object]:
        """How the biases are trained, without the settings that do nothing beside the others."""
        training: dict[str, object] = self.training.model_dump()
        if training["init"] != "bias_correction":
            del training["init_scale"]
        return training

    @property
    def name(self) -> str:
        """Readable, unique in a sweep and fit for a path: allocation, sparsity, levels, seed, start of the identity."""
        allocation = re.sub("[^A-Za-z0-9_.]+", "-", self.allocation).strip("-")
        seed = f"_seed{self.training.seed}" if self.sites else ""
        levels = f"-{self.level_method}" if self.level_method in ("greedy", "fisher") else ""
        return f"{allocation}_s{self.sparsity:.2f}{levels}{seed}_{self.identity[:10]}"
