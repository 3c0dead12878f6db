"""The config schema of where: the plan says which sites are sparsified, the allocation which carry a bias."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from search_spaces.allocations import MEASURED, is_named, measured_name, parse_allocation
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Module, Modules, Site, module_label
from search_spaces.sources import Config, by_name

Level = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
LevelMethod = Literal["uniform", "greedy", "fisher"]
TokenPolicy = Literal["all", "second_half"]


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
        return by_name(value)

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
