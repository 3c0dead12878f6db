"""The study's own files as it wrote them; a key that is not declared here is an error."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from search_spaces.placement import Level, Seed
from search_spaces.sites import MODULES, Module, Site
from search_spaces.sources import Config

_SITE = re.compile(rf"layer_([0-9]+)_({'|'.join(MODULES)})")


def _site_name(name: object) -> object:
    """Read ``layer_3_down_proj`` as ``3.down_proj``; what is not text is left to pydantic to refuse."""
    if not isinstance(name, str):
        return name
    match = _SITE.fullmatch(name)
    if not match:
        raise ValueError(f"a site must be layer_INDEX_MODULE, but got {name!r}")
    return str(Site.parse(f"{match[1]}.{match[2]}"))


SiteName = Annotated[str, BeforeValidator(_site_name)]
"""A site as ``3.down_proj``, which the study writes ``layer_3_down_proj``."""


class SweepExtra(Config):
    """``config.extra`` of ``results.json``. Overridden layers are refused: the names would then say other masks."""

    all_sparsities: tuple[Level, ...]
    all_configs: tuple[str, ...]
    default_sparse_modules: tuple[Module, ...]
    data_driven_overrides: None
    model_provider_requested: str
    model_provider_effective: str
    ollama_model: str
    provider_fallback_reason: str


class SweepConfig(Config):
    """``config`` of ``results.json``; the study leaves what differs between its runs at a placeholder."""

    model_name: str
    model_num_layers: int
    model_hidden_dim: int
    sparsity: Level
    config_name: str
    layer_mask: tuple[int, ...]
    modules: tuple[Module, ...]
    epochs: int
    learning_rate: float
    batch_size: int
    block_size: int = Field(ge=2)
    calibration_dataset: Literal["wikitext"]
    calibration_samples: int
    seed: Seed
    extra: SweepExtra


class SweepResult(Config):
    """One run of the sweep, on the test text.

    Attributes:
        loss: negative log-likelihood, nats a token. perplexity: its exponential.
        num_tokens: that were predicted.
        ppl_vs_dense, ppl_vs_teal: ratios of perplexities; the second to TEAL alone on the same modules.
        ppl_improvement: against TEAL, percent, positive where SPON is better.
    """

    config_name: str
    sparsity: Level
    perplexity: float = Field(gt=0)
    loss: float = Field(gt=0)
    num_tokens: int = Field(ge=1)
    num_spon_layers: int
    num_spon_params: int
    relative_params: float
    training_loss_final: float
    training_time_seconds: float
    ppl_vs_dense: float = Field(gt=0)
    ppl_vs_teal: float = Field(gt=0)
    ppl_improvement: float


class SummaryRow(SweepResult):
    """A line of ``summary.csv``."""

    run_id: str


class Results(Config):
    """``results.json``."""

    run_id: str
    timestamp: str
    config: SweepConfig
    results: dict[str, SweepResult] = Field(min_length=1)


class ParetoEntry(Config):
    """An entry of ``pareto.json``."""

    config_name: str
    sparsity: Level
    perplexity: float
    relative_params: float


class AnalysisArguments(Config):
    """``args`` of ``interpretability.json``; the checkpoints are paths on the study's machine."""

    model: str
    spon_checkpoint: str
    spon_checkpoint_b: str
    sparsity: Level
    output_dir: str
    device: str
    model_provider: str
    ollama_model: str | None
    pull_ollama: bool


class PcaAlignment(Config):
    """Cosines of a bias with the leading principal components, counted from 0."""

    pc_similarities: tuple[float, ...] = Field(min_length=1)
    explained_variance: tuple[float, ...]
    max_alignment: float
    best_pc: int


class CategoryShift(Config):
    """Dense against sparse with SPON, on the prompts of one category."""

    l2_shifts: dict[SiteName, float] = Field(min_length=1)
    cka_scores: dict[SiteName, float] = Field(min_length=1)
    avg_l2: float
    avg_cka: float


class StudyBias(Config):
    """The study's statistics of a bias; ``sparsity`` is the share of entries below 1e-6."""

    mean: float
    std: float
    l2_norm: float
    max_abs: float
    sparsity: float
    pos_frac: float
    kurtosis: float


class StateShift(Config):
    """L2 distance of hidden states to the dense ones, and by how many percent SPON makes it smaller."""

    teal_shift_l2: float = Field(gt=0)
    spon_shift_l2: float
    recovery_pct: float


class StateShiftMean(Config):
    """Means over layers."""

    avg_teal_shift: float
    avg_spon_shift: float
    avg_recovery_pct: float


class RankedNorm(Config):
    """A place in the ranking of norms."""

    layer: SiteName
    l2_norm: float


class PairComparison(Config):
    """Two checkpoints at one site."""

    cosine_similarity: float
    l2_difference: float


class PairMean(Config):
    """Mean over sites, and which checkpoints were compared."""

    avg_cosine_similarity: float
    config_a: str
    config_b: str


class _WithAggregate(Config):
    """A mapping of sites in which the study also keeps an entry ``_aggregate``."""

    @model_validator(mode="before")
    @classmethod
    def _set_apart(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "_aggregate" not in raw:
            raise ValueError("there must be an entry '_aggregate', but there is none")
        return {"sites": {k: v for k, v in raw.items() if k != "_aggregate"}, "aggregate": raw["_aggregate"]}


class StateShifts(_WithAggregate):
    """Hidden-state shifts."""

    sites: dict[SiteName, StateShift] = Field(min_length=1)
    aggregate: StateShiftMean


class PairComparisons(_WithAggregate):
    """Two checkpoints, site by site."""

    sites: dict[SiteName, PairComparison] = Field(min_length=1)
    aggregate: PairMean


class Interpretability(Config):
    """``interpretability.json``."""

    args: AnalysisArguments
    pca_alignments: dict[SiteName, PcaAlignment] = Field(min_length=1)
    category_analysis: dict[str, CategoryShift] = Field(min_length=1)
    bias_statistics: dict[SiteName, StudyBias] = Field(min_length=1)
    hidden_state_shifts: StateShifts
    bias_norm_ranking: tuple[RankedNorm, ...]
    cross_config_comparison: PairComparisons
    timestamp: str


class CheckpointExtra(Config):
    """``extra`` of a ``.pt`` file."""

    training_loss: float
    modules: tuple[Module, ...]
    layer_mask: tuple[int, ...]


class CheckpointHead(Config):
    """A ``.pt`` file without its vectors."""

    config_name: str
    sparsity: Level
    run_id: str
    timestamp: str
    extra: CheckpointExtra
    sites: tuple[SiteName, ...] = Field(min_length=1)
