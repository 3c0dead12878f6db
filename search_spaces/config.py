"""The schema of a space, in the order of its keys. `SpaceConfig`, the whole, comes last."""

import json
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from search_spaces.allocations import MEASURED, is_named, parse_allocation
from search_spaces.base import Config
from search_spaces.errors import SponError
from search_spaces.masks import MaskFamily
from search_spaces.sites import MODULES, Module, Modules, Site, module_label

Split = Literal["calibration", "validation", "test"]
SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")
EMBEDDED = "embedded"
Level = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
LevelMethod = Literal["uniform", "greedy", "fisher"]
TokenPolicy = Literal["all", "second_half"]
Objective = Literal["val_kl_nats", "n_spon_params"]


class ModelConfig(Config):
    """A causal LM."""

    source: str = Field(default=EMBEDDED, min_length=1)
    """``embedded`` (SmolLM2-135M-Instruct), a Hugging Face id, or a local directory."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights. Biases and statistics are always fp32. ``auto`` is bfloat16 on CUDA and on CPUs with
    instructions for it, else float32. The driver decides once for all trials (``trainables.model.dtype``).
    """
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    @model_validator(mode="after")
    def _revision_goes_with_a_hub(self) -> "ModelConfig":
        if self.source == EMBEDDED and self.revision is not None:
            raise ValueError(f"revision may be given only for a Hugging Face model, but got {self.revision!r}")
        return self


class BlockCounts(Config):
    """Maximum number of token blocks in each split."""

    calibration: int = Field(default=2048, ge=1)
    """Blocks that train biases and set thresholds."""
    validation: int = Field(default=256, ge=1)
    """Blocks for every choice."""
    test: int = Field(default=1024, ge=1)
    """Blocks for the final report. Nothing else reads them."""


class CorpusConfig(Config):
    """The text, its three splits, and how it becomes token blocks."""

    source: str = Field(default=EMBEDDED, min_length=1)
    """``embedded`` (English Wikipedia sample), ``files`` (local text or parquet), or a hub dataset id."""
    name: str | None = None
    """Configuration of a hub dataset, such as ``wikitext-103-raw-v1``."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    splits: dict[Split, str] = Field({"calibration": "train", "validation": "validation", "test": "test"})
    """For a hub dataset, its name of each split. Without a validation split, every tenth calibration document becomes
    validation text.
    """
    files: dict[Split, Annotated[tuple[str, ...], Field(min_length=1)]] = Field({})
    """For ``files``, the paths of each split. The same rule holds for a missing validation split."""
    document: Literal["row", "paragraph", "file", "heading"] = "row"
    """What one document is. Intervals resample documents, and a validation split taken from calibration text keeps
    documents whole. A ``row`` is a row of a dataset or parquet file, or a line of a text file. ``paragraph`` and
    ``file`` are for text files only. With ``heading``, a document is an article that starts at a level-one heading,
    `` = Title = `` as in WikiText.
    """
    text_column: str = "text"
    """The column with the text."""
    block_size: int = Field(default=128, ge=2)
    """Tokens in a block."""
    blocks: BlockCounts = BlockCounts()
    """Maximum number of blocks in each split."""
    pick: Literal["first", "spread"] = "first"
    """The ``first`` blocks of the token stream (as in the study), or blocks ``spread`` evenly over it, in an order
    in which every prefix is spread too.
    """

    @model_validator(mode="after")
    def _documents_fit_the_source(self) -> "CorpusConfig":
        got = f"document: {self.document} and source: {self.source}"
        if self.document in ("paragraph", "file") and self.source != "files":
            raise ValueError(f"document may be paragraph or file only for text files, but got {got}")
        if self.document == "heading" and self.source == EMBEDDED:
            raise ValueError(f"document must be row where a row is an article, but got {got}")
        return self

    @property
    def on_hub(self) -> bool:
        """Whether the text is a hub dataset."""
        return self.source not in (EMBEDDED, "files")

    @model_validator(mode="after")
    def _splits_are_whole_and_apart(self) -> "CorpusConfig":
        if self.source == "files" and not {"calibration", "test"} <= set(self.files):
            raise ValueError(f"a corpus of files must name calibration and test files, but got {sorted(self.files)}")
        if self.source != "files" and self.files:
            raise ValueError(f"files may be named only with source: files, but got source: {self.source}")
        if not {"calibration", "test"} <= set(self.splits):
            raise ValueError(f"splits must name calibration and test, but got {sorted(self.splits)}")
        if not self.on_hub and (self.name or self.revision):
            given = self.name or self.revision
            raise ValueError(f"name and revision may be given only for a hub dataset, but got {given!r}")
        texts = list(self.splits.values()) + [file for files in self.files.values() for file in files]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"a text must be in one split only, but got {twice!r} twice")
        return self


def _by_name(value: object) -> object:
    """Expand a bare name to the mapping that it stands for."""
    return {"name": value} if isinstance(value, str) else value


def _canonical(sites: Iterable[str]) -> tuple[str, ...]:
    """The sites as ``Site`` writes them. A bad one raises ``ValueError``, to which pydantic adds the field path."""
    try:
        parsed = tuple(str(Site.parse(site)) for site in sites)
    except SponError as error:
        raise ValueError(str(error)) from error
    twice = next((site for site in parsed if parsed.count(site) > 1), None)
    if twice is not None:
        raise ValueError(f"a site must be named once, but got {twice} twice")
    return parsed


class PlanConfig(Config):
    """TEAL: which sites are sparsified, how much, by which rule."""

    modules: Literal["matched"] | tuple[Module, ...] = "matched"
    """Module types, ``all`` of them, or ``matched`` (those of the allocation, as in the seed study)."""
    layers: tuple[int, ...] | None = None
    """Layer indices, all by default."""
    levels: tuple[LevelMethod, ...] | dict[str, Level] = ("uniform",)
    """How the sweep's sparsity is spread over the sites. ``uniform`` gives every site the same level. ``fisher``
    (Fisher curves, ``trainables.curves``) and ``greedy`` (TEAL's block-wise optimisation, ``trainables.greedy``) are
    measured on the model first. In a list, each method is a plan of its own. A mapping, such as
    ``{"3.down_proj": 0.4}``, sets single sites that differ from the sweep's sparsity.
    """
    bounds: tuple[Level, Level] = (0.0, 0.95)
    """Lowest and highest level that ``fisher`` and ``greedy`` may give a site."""
    level_method: LevelMethod | None = None
    """The method that chose the levels of single sites. A sweep sets it after it measures them."""
    rule: Literal["topk", "threshold"] = "threshold"
    """``topk`` keeps the largest |x| of each token. ``threshold`` compares it with one calibrated quantile per site."""
    tokens: TokenPolicy = "all"
    """Which positions are sparsified: ``all``, or the ``second_half`` of a block (TEAL's own prefill)."""
    calibration_blocks: int = Field(default=32, ge=1)
    """Blocks of calibration text that give the thresholds."""
    allow_unsparsified_biases: bool = False
    """Accept a bias at a site outside the plan."""

    @field_validator("modules", mode="before", json_schema_input_type=Literal["matched", "all"] | tuple[Module, ...])
    @classmethod
    def _modules_are_known(cls, value: object) -> object:
        if value == "matched":
            return value
        if value == "all":
            return MODULES
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"modules must be 'matched', 'all' or a list of module types, but got {value!r}")
        for module in value:
            if module not in MODULES:
                raise ValueError(f"a module must be one of {', '.join(MODULES)}, but got {module!r}")
        return value

    @field_validator(
        "levels", mode="before", json_schema_input_type=LevelMethod | tuple[LevelMethod, ...] | dict[str, Level]
    )
    @classmethod
    def _one_method_is_a_list_of_one(cls, levels: object) -> object:
        return (levels,) if isinstance(levels, str) else levels

    @field_validator("levels")
    @classmethod
    def _levels_are_known(cls, levels: tuple[LevelMethod, ...] | dict[str, float]) -> object:
        if isinstance(levels, dict):
            return dict(zip(_canonical(levels), levels.values(), strict=True))
        if not levels or len(set(levels)) != len(levels):
            raise ValueError(f"plan.levels must name at least one method and each once, but got {list(levels)}")
        return levels

    @field_validator("bounds")
    @classmethod
    def _bounds_are_in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] >= bounds[1]:
            raise ValueError(f"bounds must be [lowest, highest], but got {list(bounds)}")
        return bounds

    @property
    def methods(self) -> tuple[LevelMethod, ...]:
        """The methods for levels that are not decided yet, empty if the level of each site is known."""
        return () if isinstance(self.levels, dict) else self.levels

    @property
    def is_measured(self) -> bool:
        """Whether levels must be measured on the model before the plan can be resolved."""
        return any(method != "uniform" for method in self.methods)

    @model_validator(mode="after")
    def _something_is_sparsified(self) -> "PlanConfig":
        if self.is_measured and self.modules == "matched":
            raise ValueError(f"measured levels must have a list of modules, but got {', '.join(self.methods)}")
        if self.layers == ():
            raise ValueError("a plan must sparsify at least one layer, but got layers=[]")
        return self


class AllocationConfig(Config):
    """SPON: which sites carry a bias. A bare string in YAML is a named allocation."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
    """A named allocation. With ``layers`` or ``sites``, a name of your own that is not one of those."""
    layers: tuple[int, ...] | None = None
    """Explicit layer indices."""
    modules: Modules | None = None
    """Module types, or ``all``. The default is those of the named allocation, else ``down_proj``."""
    sites: tuple[str, ...] | None = None
    """Explicit sites, such as ``["0.down_proj", "3.o_proj"]``."""
    seed: Seed = 0
    """Seed of the draw, for RANDOM-k only."""
    above: float | None = None
    """For a measured allocation, take the layers whose figure is above this value, in the unit of the figure."""
    levels: tuple[LevelMethod, ...] | None = None
    """Methods of ``plan.levels`` to try it under, all by default."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return _by_name(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A mapping, or the bare name."""
        return {"anyOf": [{"type": "string"}, handler(core)]}

    @field_validator("sites")
    @classmethod
    def _sites_parse(cls, sites: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if sites is None else _canonical(sites)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "AllocationConfig":
        if self.sites is not None and (self.layers is not None or self.modules is not None):
            raise ValueError(f"an allocation must give either sites, or layers and modules, but {self.name} gives both")
        if self.layers == () or self.modules == () or self.sites == ():
            raise ValueError(f"an allocation must have a site unless it is BASELINE-TEAL, but {self.name} has none")
        if self.seed and not self.name.startswith("RANDOM-"):
            raise ValueError(f"a seed may be given only to RANDOM-k, but got {self.name} with seed {self.seed}")
        if self.above is not None and self.name not in MEASURED:
            got = f"{self.name} with above={self.above}"
            raise ValueError(f"above may be given only to {', '.join(MEASURED)} without a percent, but got {got}")
        if self.layers is None and self.sites is None:
            parse_allocation(self.name)
        elif is_named(self.name):
            raise ValueError(f"explicit layers or sites must have a name of their own, but got {self.name}")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether layers or sites must be measured on the model before the allocation can be resolved."""
        return self.layers is None and self.sites is None and parse_allocation(self.name)[0] in MEASURED

    @property
    def label(self) -> str:
        """The name, with a suffix that tells apart two uses of the same named allocation."""
        above = f">{self.above:g}" if self.above is not None else ""
        if self.layers is not None or self.sites is not None:
            return self.name + above
        modules = f"[{module_label(self.modules)}]" if self.modules else ""
        return self.name + modules + (f"#{self.seed}" if self.seed else "") + above


class TrainingConfig(Config):
    """How the biases are trained (SPON, arXiv:2512.12744). Defaults are the seed study's."""

    form: Literal["output_bias", "input_vector"] = "output_bias"
    """``output_bias`` trains b. ``input_vector`` trains a with b = W a (the paper's form)."""
    init: Literal["zero", "bias_correction"] = "zero"
    """Where training starts: at ``zero``, which is TEAL alone, or at ``bias_correction``, the mean that sparsification
    removes from a site's output (``trainables.teal.mean_removed``).
    """
    init_scale: float = Field(default=0.5, gt=0, le=1)
    """Share of that mean to start from."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions. The loss is scaled by its square."""
    batch_size: int = Field(default=8, ge=1)
    """Blocks in one forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes in one optimiser step."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the calibration blocks."""
    max_steps: int | None = Field(default=None, ge=1)
    """Maximum number of optimiser steps. It may end training within an epoch."""
    lr: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW."""
    gain_lr: float = Field(default=0.0, ge=0)
    """Learning rate of one gain per site that scales its start. Fewer tokens suffice for a gain than for each entry of
    the start. At 0 there are no gains.
    """
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip the joint norm of the gradients to this value."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear learning rate warm-up."""
    eval_every_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between validations. The default is one validation per epoch."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Validations without a lower KL before training ends. The best biases are then kept."""
    seed: Seed = 42
    """Seed of the data order. A space sets it with ``seeds``."""

    @model_validator(mode="after")
    def _gains_need_a_start(self) -> "TrainingConfig":
        if self.gain_lr and self.init == "zero":
            raise ValueError(f"gain_lr must be 0 with init: zero, which has no start to scale, but got {self.gain_lr}")
        return self


class ResourcesConfig(Config):
    """What one trial requests from the cluster, and its limits. Only the device affects results."""

    cpus_per_trial: int = Field(default=1, ge=1)
    """Ray CPUs and torch threads of a trial."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """One GPU, or a fraction to share one. Zero trains on the CPU."""
    accelerator_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Ray's name of the accelerator that a trial needs, such as ``A100``. Any by default."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that a trial reserves on its node. Ray starts only as many trials on a node as fit by this figure, but
    does not enforce it. When a node runs out of memory, Ray kills a worker, which counts towards ``max_failures``.
    """
    max_concurrent: int | None = Field(default=None, ge=1)
    """Maximum number of trials at once. As many as fit by default."""
    max_failures: int = Field(default=2, ge=0)
    """How often a trial restarts after its process is lost or its node is at fault. The death of a node does not
    count.
    """
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes of training and validation after which a trial fails, checked between optimiser steps."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Hourly price of what one trial occupies, in any currency, for ``sweep status``."""

    @model_validator(mode="after")
    def _a_trial_uses_one_gpu(self) -> "ResourcesConfig":
        if self.gpus_per_trial > 1:
            got = f"gpus_per_trial={self.gpus_per_trial:g}"
            raise ValueError(f"a trial must use one GPU, or a fraction to share one, but got {got}")
        return self

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where a trial runs: CUDA if it asks for a GPU, else the CPU."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """What a trial takes from a node, by Ray's resource names."""
        bundle: dict[str, float] = {"CPU": self.cpus_per_trial}
        if self.gpus_per_trial:
            bundle["GPU"] = self.gpus_per_trial
        if self.memory_gib:
            bundle["memory"] = round(self.memory_gib * 2**30)
        if self.accelerator_type:
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001  # marks the node; Ray gives each node 1 of it
        return bundle


class Tpe(Config):
    """Tree-structured Parzen estimators over all parameters jointly. Running trials count as poor, so that parallel
    trials differ.
    """

    name: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(default=10, ge=1)
    """Random trials before the first one from the model."""


class Nsga2(Config):
    """NSGA-II, a genetic algorithm for one or several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=20, ge=2)
    """Masks per generation."""


class Random(Config):
    """Independent uniform draws, the baseline for the other algorithms."""

    name: Literal["random"] = "random"


class Grid(Config):
    """Every suggestion once, in random order. For small spaces such as windows."""

    name: Literal["grid"] = "grid"


Algorithm = Annotated[
    Tpe | Nsga2 | Random | Grid,
    Field(discriminator="name"),
    BeforeValidator(
        _by_name,
        json_schema_input_type=Literal["tpe", "nsga2", "random", "grid"] | Tpe | Nsga2 | Random | Grid,
    ),
]


class ProxyConfig(Config):
    """Score masks by switching sites of one set of shared biases on and off, and train only the best for real."""

    rungs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(16,), min_length=1)
    """Validation blocks that score a mask on each rung. A rung includes the blocks of the one before. Between rungs,
    ``stopping`` decides which masks continue. The score on the last rung is the mask's score.
    """
    epochs: int | None = Field(default=None, ge=1)
    """Epochs to train the shared biases for, the space's own by default."""
    n_train: int = Field(default=8, ge=1)
    """How many of the best masks on the proxy are trained for real."""
    n_reference: int = Field(default=10, ge=0)
    """Random masks that are scored on the last rung before the search, with the space's own allocations. The algorithm
    must beat them, and the text must tell them apart.
    """
    least_reliability: float = Field(default=0.5, ge=0, lt=1)
    """The search stops before its first proposal if its text tells these masks apart with a lower reliability
    (``sweep.search.power``). At 0 it never stops there.
    """

    @model_validator(mode="after")
    def _rungs_grow(self) -> "ProxyConfig":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"each rung must have more blocks than the one before, but got {list(self.rungs)}")
        return self


class Asha(Config):
    """Asynchronous successive halving: after each rung of a proxy, or validation of a training, the best continue."""

    name: Literal["asha"] = "asha"
    reduction_factor: float = Field(default=2, gt=1)
    """One mask in this many continues."""


Stopping = Annotated[Asha | None, BeforeValidator(_by_name, json_schema_input_type=Literal["asha"] | Asha | None)]


class ConfirmConfig(Config):
    """The final comparison: chosen masks, the space's own allocations and controls, trained again and tested once."""

    seeds: tuple[Seed, ...] = Field(default=(1, 2, 3), min_length=1)
    """Data orders, without the seed that chose the masks, to keep the comparison honest."""
    n_chosen: int = Field(default=1, ge=1)
    """Maximum number of searched masks: those with the lowest KL, or on the Pareto front if parameters count too."""
    n_random: int = Field(default=5, ge=0)
    """Random masks with as many units, as controls. The other controls are the first units, the last units and, unless
    it is empty, the inverted mask.
    """

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed must be listed once, but got {list(seeds)}")
        return seeds


class SearchConfig(Config):
    """A search over masks.

    Every mask is trained with the first seed of the space, or scored on a proxy first.
    """

    masks: MaskFamily
    """The family of masks to search."""
    algorithm: Algorithm = Tpe()
    """The algorithm that proposes masks: a mapping with a ``name``, or the bare name."""
    objectives: tuple[Objective, ...] = ("val_kl_nats",)
    """What to minimise: the KL, or the KL and the number of parameters for their Pareto front."""
    n_masks: int = Field(default=64, ge=1)
    """Number of masks to evaluate."""
    seed: Seed = 42
    """Seed of the algorithm."""
    proxy: ProxyConfig | None = None
    """How to score masks without training. Without a proxy, each mask is trained."""
    stopping: Stopping = None
    """Stops masks early, by validation KL after each rung of the proxy or each validation of a training run. The
    algorithm is told that they were stopped, never a score that is not on all text.
    """
    confirm: ConfirmConfig = ConfirmConfig()
    """The final comparison."""

    @field_validator("objectives")
    @classmethod
    def _objectives_are_known(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if objectives not in (("val_kl_nats",), ("val_kl_nats", "n_spon_params")):
            got = f"[{', '.join(objectives)}]"
            raise ValueError(f"objectives must be [val_kl_nats] or [val_kl_nats, n_spon_params], but got {got}")
        return objectives

    @property
    def counts_params(self) -> bool:
        """Whether the number of parameters is an objective beside the KL."""
        return "n_spon_params" in self.objectives

    def most_compared(self, n_own: int) -> int:
        """Maximum number of masks in the final comparison, with ``n_own`` allocations of the space."""
        return n_own + self.confirm.n_chosen * (4 + self.confirm.n_random)  # itself, early, late, inverted

    @model_validator(mode="after")
    def _proxy_suits_the_rest(self) -> "SearchConfig":
        if self.proxy is not None and (len(self.proxy.rungs) > 1) != (self.stopping is not None):
            got = f"rungs={list(self.proxy.rungs)}, stopping={self.stopping and self.stopping.name}"
            raise ValueError(f"a proxy must have stopping exactly when it has several rungs, but got {got}")
        return self


class SpaceConfig(Config):
    """A sweep: one model, one corpus, and the grid of sparsities x allocations x seeds to train."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the sweep, its folder under the storage directory and its parent run in MLflow."""
    model: ModelConfig = ModelConfig()
    """The causal LM."""
    corpus: CorpusConfig = CorpusConfig()
    """The text."""
    plan: PlanConfig = PlanConfig()
    """Which sites are sparsified, and how."""
    sparsity: tuple[Level, ...] = Field(min_length=1)
    """Fractions of the input entries to set to zero, each a plan of its own."""
    allocations: tuple[AllocationConfig, ...] = Field(min_length=1)
    """Which sites carry a bias, each a trial of its own."""
    seeds: tuple[Seed, ...] = Field(default=(42,), min_length=1)
    """Data orders. Each allocation is trained once per seed."""
    training: TrainingConfig = TrainingConfig()
    """How the biases are trained."""
    resources: ResourcesConfig = ResourcesConfig()
    """What a trial requests from the machine or the cluster."""
    search: SearchConfig | None = None
    """The search for other masks, if any."""

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
            raise ValueError(f"a seed must be given as seeds, which overrides training.seed, but got {got}")
        for allocation in self.allocations:
            unknown = [method for method in allocation.levels or () if method not in self.plan.methods]
            if unknown:
                got = f"{allocation.name} with {unknown[0]}, plan.levels={list(self.plan.levels)}"
                raise ValueError(f"levels of an allocation must be among those of the plan, but got {got}")
        low, high = self.plan.bounds
        outside = [s for s in self.sparsity if self.plan.is_measured and not low <= s <= high]
        if outside:
            got = f"sparsity {outside[0]:g}, plan.bounds={list(self.plan.bounds)}"
            raise ValueError(f"a sparsity must lie within plan.bounds, but got {got}")
        return self

    @model_validator(mode="after")
    def _search_fits_the_rest(self) -> "SpaceConfig":
        search, plan, n_validation = self.search, self.plan, self.corpus.blocks.validation
        if search is None:
            return self
        if len(self.sparsity) > 1 or len(plan.methods) > 1:
            got = f"sparsity={list(self.sparsity)}, plan.levels={list(plan.methods)}"
            raise ValueError(f"a search must have one sparsity and one way to spread it, but got {got}")
        if plan.modules == "matched" and len(search.masks.modules) > 1:
            # matched would sparsify less for a mask of fewer modules, and the search would prefer it for that alone
            got = f"plan.modules=matched with masks of {', '.join(search.masks.modules)}"
            raise ValueError(f"a search over several modules must list plan.modules, but got {got}")
        if search.proxy is not None and search.proxy.rungs[-1] > n_validation:
            got = f"rungs={list(search.proxy.rungs)}, corpus.blocks.validation={n_validation}"
            raise ValueError(f"rungs must not exceed the validation blocks, but got {got}")
        if self.seeds[0] in search.confirm.seeds:
            got = f"seeds={list(self.seeds)}, search.confirm.seeds={list(search.confirm.seeds)}"
            raise ValueError(f"search.confirm must not use the seed that chooses the masks, but got {got}")
        return self


def json_schema() -> str:
    """JSON Schema of a space as users write it, with short forms, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SpaceConfig.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"
