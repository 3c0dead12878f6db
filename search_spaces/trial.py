"""A fully resolved trial, and its identity."""

import hashlib
import json
import re
from typing import Literal

from pydantic import field_validator

from search_spaces.base import Config
from search_spaces.config import CorpusConfig, Level, LevelMethod, ModelConfig, TokenPolicy, TrainingConfig
from search_spaces.sites import Site, module_label


class TrialPlan(Config):
    """A fully resolved sparsity plan.

    Attributes:
        levels: sparsity of each sparsified site, in canonical order, without sites at zero.
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


ALGORITHM = 4
"""Version of the results of this code. Raise it when the same config gives another result."""


class TrialConfig(Config):
    """One fully resolved trial: what ``trainables`` runs, what a checkpoint records, what the identity comes from.

    Attributes:
        model_fingerprint, corpus_fingerprint: content hashes (of ``ModelSource`` and ``corpus_fingerprint``).
        allocation: the name for display, which is not part of the identity.
        sites: biased sites in canonical order, none for TEAL alone.
        num_layers: depth of the model.
        sparsity: the sweep's level, for tables.
        level_method: how the sparsity is spread over the sites, for tables. None if the levels are the user's own.
        device: kind of device that runs the trial, part of the identity because another kind rounds differently.
        algorithm: ``ALGORITHM`` of the code that the trial is for, also part of the identity.
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

        Differing levels of the user's own show as the lowest, the highest and a hash, because each set is another plan.
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
        """The sparsified module types, or ``all`` for all seven."""
        return module_label(dict.fromkeys(Site.parse(site).module for site in self.plan.levels)) or "dense"

    @property
    def identity(self) -> str:
        """Hash of everything that decides the result. Configs of the same trial share an identity and train once."""
        idle = {"init_scale"} if self.training.init != "bias_correction" else None  # there is no start to scale
        decides = {
            "algorithm": self.algorithm,
            "device": self.device,
            "model": self.model_fingerprint,
            "dtype": self.model.dtype,
            "corpus": self.corpus_fingerprint,
            "plan": self.plan.model_dump() if self.plan.levels else None,
            "sites": self.sites,
            "training": self.training.model_dump(exclude=idle) if self.sites else None,
        }
        return _hash(decides)[:16]

    @property
    def name(self) -> str:
        """A readable, path-safe name, unique in a sweep: allocation, sparsity, levels, seed, start of the identity."""
        allocation = re.sub("[^A-Za-z0-9_.]+", "-", self.allocation).strip("-")
        seed = f"_seed{self.training.seed}" if self.sites else ""
        levels = f"-{self.level_method}" if self.level_method in ("greedy", "fisher") else ""
        return f"{allocation}_s{self.sparsity:.2f}{levels}{seed}_{self.identity[:10]}"
