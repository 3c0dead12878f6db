"""Everything that a user can write in a space, in the order of its keys; `SpaceConfig`, the whole, comes last."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from search_spaces.allocations import MEASURED, is_named, measured_name, parse_allocation
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
    """Type of the frozen weights; biases and statistics are fp32 always. ``auto`` is bfloat16 on CUDA and on CPUs that
    multiply it, else float32; the driver decides once, for all trials (``trainables.model.dtype``).
    """
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless asked for."""

    @model_validator(mode="after")
    def _revision_goes_with_a_hub(self) -> "ModelConfig":
        if self.source == EMBEDDED and self.revision is not None:
            raise ValueError(f"revision may be given only for a Hugging Face model, but got {self.revision!r}")
        return self


class BlockCounts(Config):
    """How many token blocks each split gives at most."""

    calibration: int = Field(default=2048, ge=1)
    """Blocks that biases and thresholds are made from."""
    validation: int = Field(default=256, ge=1)
    """Blocks that choices are made on."""
    test: int = Field(default=1024, ge=1)
    """Blocks of the final report, which nothing else reads."""


class CorpusConfig(Config):
    """Text, its three splits, and how it becomes token blocks."""

    source: str = Field(default=EMBEDDED, min_length=1)
    """``embedded`` (English Wikipedia sample), ``files`` (local text or parquet), or a hub dataset id."""
    name: str | None = None
    """Configuration of a hub dataset, such as ``wikitext-103-raw-v1``."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    splits: dict[Split, str] = Field({"calibration": "train", "validation": "validation", "test": "test"})
    """For a hub dataset, its split for each of ours. Without a validation split, every tenth calibration document is
    taken for it.
    """
    files: dict[Split, Annotated[tuple[str, ...], Field(min_length=1)]] = Field({})
    """For ``files``, paths for each split (the same rule for a missing validation split)."""
    document: Literal["row", "paragraph", "file", "heading"] = "row"
    """What one document is. Intervals resample documents, and no document is torn for a missing validation split. A
    ``row`` is one of a dataset or parquet file, or a line of a text file; ``paragraph`` and ``file`` are for text files
    only. With ``heading``, each level-one heading, `` = Title = `` as in WikiText, starts an article, and an article is
    a document.
    """
    text_column: str = "text"
    """The column to read."""
    block_size: int = Field(default=128, ge=2)
    """Tokens in a block."""
    blocks: BlockCounts = BlockCounts()
    """How many blocks each split gives at most."""
    pick: Literal["first", "spread"] = "first"
    """The ``first`` blocks of the token stream (the study), or blocks ``spread`` evenly over it, in an order of which
    every beginning is spread too.
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
        """Whether it is a dataset of the hub."""
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
    """The short form of a config that has a ``name``, as the mapping that it stands for."""
    return {"name": value} if isinstance(value, str) else value


def _canonical(sites: Iterable[str]) -> tuple[str, ...]:
    """The sites as ``Site`` writes them; as a ``ValueError``, what pydantic gives a field path, if one is wrong."""
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
    """Module types, ``all`` of them, or ``matched`` (those of the allocation, as the seed study does)."""
    layers: tuple[int, ...] | None = None
    """Layer indices, all by default."""
    levels: tuple[LevelMethod, ...] | dict[str, Level] = ("uniform",)
    """How the sweep's sparsity is spread over the sites. ``uniform``; by Fisher curves (``fisher``,
    ``trainables.curves``) or TEAL's block-wise optimisation (``greedy``, ``trainables.greedy``), which are measured on
    the model first; several of these, each a plan of its own; or the sparsity of single sites where it differs from the
    sweep's, such as ``{"3.down_proj": 0.4}``.
    """
    bounds: tuple[Level, Level] = (0.0, 0.95)
    """Lowest and highest level that ``fisher`` and ``greedy`` may give a site."""
    level_method: LevelMethod | None = None
    """Who chose the levels of single sites. A sweep sets it when it has measured them."""
    rule: Literal["topk", "threshold"] = "threshold"
    """``topk`` keeps the largest |x| of each token; ``threshold`` compares with one calibrated quantile a site."""
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
            raise ValueError(f"methods of levels must be at least one and each once, but got {list(levels)}")
        return levels

    @field_validator("bounds")
    @classmethod
    def _bounds_are_in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] >= bounds[1]:
            raise ValueError(f"bounds must be [lowest, highest], but got {list(bounds)}")
        return bounds

    @property
    def methods(self) -> tuple[LevelMethod, ...]:
        """The methods of levels that are still open; none where each site's level is known."""
        return () if isinstance(self.levels, dict) else self.levels

    @property
    def is_measured(self) -> bool:
        """Whether levels must be measured on the model before the plan can be resolved."""
        return any(method != "uniform" for method in self.methods)

    @model_validator(mode="after")
    def _something_is_sparsified(self) -> "PlanConfig":
        if self.is_measured and self.modules == "matched":
            raise ValueError(f"levels that are measured must have a list of modules, but got {', '.join(self.methods)}")
        if self.layers == ():
            raise ValueError("a plan must sparsify at least one layer, but got layers=[]")
        return self


class AllocationConfig(Config):
    """SPON: which sites carry a bias. A bare string in YAML is a named allocation."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
    """A named allocation, or a name of your own (not one of those) beside ``layers`` or ``sites``."""
    layers: tuple[int, ...] | None = None
    """Explicit layer indices."""
    modules: Modules | None = None
    """Module types, or ``all``; those of the named allocation, or ``down_proj``, by default."""
    sites: tuple[str, ...] | None = None
    """Explicit sites, such as ``["0.down_proj", "3.o_proj"]``."""
    seed: Seed = 0
    """Which draw, for RANDOM-k only."""
    above: float | None = None
    """For an allocation that is measured: the layers whose figure is above this, in its own unit."""
    levels: tuple[LevelMethod, ...] | None = None
    """Methods of ``plan.levels`` under which it is tried; all by default."""

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
        """Whether its layers must be measured on the model before it can be resolved."""
        return self.layers is None and self.sites is None and measured_name(self.name) is not None

    @property
    def label(self) -> str:
        """The name, with what tells apart two uses of the same named allocation."""
        above = f">{self.above:g}" if self.above is not None else ""
        if self.layers is not None or self.sites is not None:
            return self.name + above
        modules = f"[{module_label(self.modules)}]" if self.modules else ""
        return self.name + modules + (f"#{self.seed}" if self.seed else "") + above


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


class ResourcesConfig(Config):
    """What one trial asks of the cluster, and how much of it at most. Of a result it decides the device alone."""

    cpus_per_trial: int = Field(default=1, ge=1)
    """Ray CPUs, and torch threads, of a trial."""
    gpus_per_trial: float = Field(default=0.0, ge=0)
    """One GPU, or the fraction of one that a trial has while it shares it; zero trains on the CPU."""
    accelerator_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Ray's name of the accelerator that a trial must have, such as ``A100``; any by default."""
    memory_gib: float | None = Field(default=None, gt=0)
    """What a trial is said to take of its node's memory. Ray starts no more trials on a node than fit by this figure,
    but holds none to it: where a node's memory runs out, Ray kills a worker, which is one of ``max_failures``.
    """
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at once; as many as fit by default."""
    max_failures: int = Field(default=2, ge=0)
    """Times that a trial is started again after its process was lost or its node was at fault. A node that dies costs
    none.
    """
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes of training and validation before a trial is failed, looked at between optimiser steps."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Price of the place of one trial, in any currency, for ``sweep status``."""

    @model_validator(mode="after")
    def _a_trial_uses_one_gpu(self) -> "ResourcesConfig":
        if self.gpus_per_trial > 1:
            got = f"gpus_per_trial={self.gpus_per_trial:g}"
            raise ValueError(f"a trial must use one GPU, or a fraction to share one, but got {got}")
        return self

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where a trial runs: CUDA exactly when it asks for a GPU."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """What a trial takes of a node, by the names that Ray gives to resources."""
        bundle: dict[str, float] = {"CPU": self.cpus_per_trial}
        if self.gpus_per_trial:
            bundle["GPU"] = self.gpus_per_trial
        if self.memory_gib:
            bundle["memory"] = round(self.memory_gib * 2**30)
        if self.accelerator_type:
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001  # a mark of the node, which Ray counts to one
        return bundle


class Tpe(Config):
    """Tree-structured Parzen estimators, of all parameters jointly; running trials count as poor, so that parallel ones
    differ.
    """

    name: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(default=10, ge=1)
    """Random trials before the first modelled one."""


class Nsga2(Config):
    """NSGA-II, a genetic algorithm for one or several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population_size: int = Field(default=20, ge=2)
    """Masks of a generation."""


class Random(Config):
    """Independent uniform draws: what the others have to beat."""

    name: Literal["random"] = "random"


class Grid(Config):
    """Every suggestion once, in random order; for small spaces such as windows."""

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
    """Validation blocks on which a mask is scored, each rung with those of the one before. Between rungs ``stopping``
    decides who goes on; the score on the last one is the mask's score.
    """
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the calibration text in the training of the shared biases; the space's own by default."""
    n_train: int = Field(default=8, ge=1)
    """Masks trained for real, the best on the proxy."""
    n_reference: int = Field(default=10, ge=0)
    """Masks drawn at random and scored on the last rung before the search, beside the space's own allocations: what the
    algorithm has to beat, and what the text must be able to tell apart.
    """
    least_reliability: float = Field(default=0.5, ge=0, lt=1)
    """A search whose text tells these masks apart with a lower reliability stops there (``sweep.search.power``). At 0
    it always goes on.
    """

    @model_validator(mode="after")
    def _rungs_grow(self) -> "ProxyConfig":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs must have more blocks each than the one before, but got {list(self.rungs)}")
        return self


class Asha(Config):
    """Asynchronous successive halving: after each rung of a proxy, or validation of a training, the best go on."""

    name: Literal["asha"] = "asha"
    reduction_factor: float = Field(default=2, gt=1)
    """One in so many goes on."""


Stopping = Annotated[Asha | None, BeforeValidator(_by_name, json_schema_input_type=Literal["asha"] | Asha | None)]


class ConfirmConfig(Config):
    """The final comparison: the chosen masks, the space's own and controls, trained again and tested once."""

    seeds: tuple[Seed, ...] = Field(default=(1, 2, 3), min_length=1)
    """Data orders, other than those the choice was made with, if that is to be honest."""
    n_chosen: int = Field(default=1, ge=1)
    """Searched masks at most: those of the lowest KL, or on the Pareto front where parameters count too."""
    n_random: int = Field(default=5, ge=0)
    """Random masks of as many units, as controls; beside them are the first and the last units and, where it is not
    empty, the mask inverted.
    """

    @property
    def most_searched(self) -> int:
        """Masks of a final comparison beside the space's own, at most: the chosen, each with its controls."""
        return self.n_chosen * (4 + self.n_random)  # itself, early, late, inverted

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"a seed must be listed once, but got {list(seeds)}")
        return seeds


class SearchConfig(Config):
    """What stands under ``search:`` in a space.

    Every mask is trained with the first of the space's seeds, or scored on a proxy first.
    """

    masks: MaskFamily
    """Which masks there are."""
    algorithm: Algorithm = Tpe()
    """What proposes masks: a mapping with a ``name``, or the bare name."""
    objectives: tuple[Objective, ...] = ("val_kl_nats",)
    """What is minimised: the KL, or the KL and the number of parameters, for their Pareto front."""
    n_masks: int = Field(default=64, ge=1)
    """Masks that are evaluated."""
    seed: Seed = 42
    """Seed of the algorithm."""
    proxy: ProxyConfig | None = None
    """Score masks without training them; without it, each is trained."""
    stopping: Stopping = None
    """Ends masks early, on validation KL after each rung of the proxy, or each validation of a training. The algorithm
    is then told that they were stopped, never a score that is not on all text.
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
        """Whether few parameters are an objective beside a low KL."""
        return "n_spon_params" in self.objectives

    def most_compared(self, n_own: int) -> int:
        """Masks in the final comparison, at most, ``n_own`` of them the space's own allocations."""
        return n_own + self.confirm.most_searched

    @model_validator(mode="after")
    def _proxy_suits_the_rest(self) -> "SearchConfig":
        if self.proxy is not None and (len(self.proxy.rungs) > 1) != (self.stopping is not None):
            got = f"rungs={list(self.proxy.rungs)}, stopping={self.stopping and self.stopping.name}"
            raise ValueError(f"a proxy must have stopping exactly when it has several rungs, but got {got}")
        return self

    def check_beside(self, plan: PlanConfig, sparsity: tuple[float, ...], validation_blocks: int) -> None:
        """Check the search against the rest of its space.

        Raises:
            ValueError: if the two contradict each other, or leave open what is compared.
        """
        if len(sparsity) > 1 or len(plan.methods) > 1:
            got = f"sparsity={list(sparsity)}, plan.levels={list(plan.methods)}"
            raise ValueError(f"a search must have one sparsity and one way to spread it, but got {got}")
        if plan.modules == "matched" and len(self.masks.modules) > 1:
            # matched would sparsify less for a mask of fewer modules, and the search would prefer it for that
            got = f"plan.modules=matched with masks of {', '.join(self.masks.modules)}"
            raise ValueError(f"a search over several modules must list plan.modules, but got {got}")
        if self.proxy is not None and self.proxy.rungs[-1] > validation_blocks:
            got = f"rungs={list(self.proxy.rungs)}, corpus.blocks.validation={validation_blocks}"
            raise ValueError(f"rungs must have at most the validation blocks that there are, but got {got}")


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
