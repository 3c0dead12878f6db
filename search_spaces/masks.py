"""Mask families: how an Optuna suggestion becomes the sites that carry a bias.

A family chooses *units*, groups of sites that are taken or left together. It asks for its parameters in a fixed order
under names such as ``03.down_proj``. Their names and ranges depend only on the config and the model, never on another
parameter of the family, because multivariate TPE and NSGA only model parameters that all suggestions share.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator
from typing_extensions import override

from search_spaces.base import Config
from search_spaces.errors import SponError
from search_spaces.sites import MODULES, ModelShape, Module, Modules, Site

if TYPE_CHECKING:  # Optuna takes half a second to import, and reading a space does not need it
    from optuna.trial import BaseTrial

GRADES, TIES = 4, "exactly_k.ties"  # of units in ExactlyK
LENGTH, PLACE = "window.length", "window.place"
NOTHING = "none"
_STEP = 0.125  # between weights in Ranked


@dataclass(frozen=True)
class Weight:
    """A number from ``low`` up to 1, in steps."""

    low: float

    def __len__(self) -> int:
        return round((1.0 - self.low) / _STEP) + 1


Unit = tuple[Site, ...]
Term = list[Any] | range | Weight
"""The domain of a parameter: categories, whole numbers, or weights."""
Params = Mapping[str, Any]


def _name(unit: Unit) -> str:
    return f"{unit[0].layer:02d}.{'+'.join(site.module for site in unit)}"


def _split(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    return tuple((site,) for unit in units for site in unit)


def _chosen(sites: tuple[Site, ...], units: tuple[Unit, ...]) -> dict[Unit, bool] | None:
    """Whether each unit is in a mask. None if the mask splits a unit or has a site outside all units."""
    chosen = {unit: set(unit) <= set(sites) for unit in units}
    return chosen if {site for unit, is_in in chosen.items() if is_in for site in unit} == set(sites) else None


class _Family(Config):
    """Base of the families. Each defines its parameters, and how they map to a mask and back."""

    modules: Modules = ("down_proj",)
    """Module types that may carry a bias, or ``all``, kept in the order of the forward pass."""

    @field_validator("modules")
    @classmethod
    def _modules_are_in_order(cls, modules: tuple[Module, ...]) -> tuple[Module, ...]:
        if not modules or len(set(modules)) != len(modules):
            rule = "a family of masks must name at least one module and each once"
            raise ValueError(f"{rule}, but got [{', '.join(modules)}]")
        return tuple(module for module in MODULES if module in modules)

    def units(self, shape: ModelShape) -> tuple[Unit, ...]:
        """The units in canonical order: by default, the sites of each layer in all ``modules``.

        Raises:
            SponError: if the family does not fit the model.
        """
        every = (Site(layer, module) for layer in range(shape.num_layers) for module in self.modules)
        sites = shape.check(every, "search.masks.modules")
        return tuple(tuple(layer) for _, layer in groupby(sites, key=lambda site: site.layer))

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        """The domain of each parameter by name, in the order of asking. Raises as ``units`` does."""
        raise NotImplementedError

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        """The sites that the parameters choose, in canonical order. There may be none."""
        raise NotImplementedError

    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        """Parameters that ``suggest`` turns into exactly these sites. None if there are none, or none are found."""
        raise NotImplementedError

    def suggest(self, trial: "BaseTrial", shape: ModelShape) -> tuple[Site, ...]:
        """Suggest a mask, as sites in canonical order. Raises as ``units`` does."""
        params: dict[str, Any] = {}
        for name, term in self._terms(shape).items():
            match term:
                case range():
                    params[name] = trial.suggest_int(name, term.start, term.stop - 1)
                case Weight():
                    params[name] = trial.suggest_float(name, term.low, 1.0, step=_STEP)
                case _:
                    params[name] = trial.suggest_categorical(name, term)
        return self._mask(params, shape)

    def grid_size(self, shape: ModelShape) -> int:
        """Number of suggestions. Several may be the same mask."""
        return math.prod(len(term) for term in self._terms(shape).values())


class _Bits(_Family):
    """One bit per unit."""

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        # Categorical instead of 0 or 1: TPE then counts how often each value was good and assumes no distance.
        return {_name(unit): [False, True] for unit in self.units(shape)}

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        return tuple(site for unit in self.units(shape) if params[_name(unit)] for site in unit)

    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        chosen = _chosen(sites, self.units(shape))
        return None if chosen is None else {_name(unit): is_in for unit, is_in in chosen.items()}


class Subset(_Bits):
    """Any subset of the layers, each with all ``modules``: one bit per layer."""

    family: Literal["subset"] = "subset"


class LayerModuleBits(_Bits):
    """Any subset of the sites: one bit per layer and module."""

    family: Literal["layer_module_bits"] = "layer_module_bits"

    @override
    def units(self, shape: ModelShape) -> tuple[Unit, ...]:
        return _split(super().units(shape))


class ExactlyK(_Family):
    """Exactly ``k`` layers, each with all ``modules``, or exactly ``k`` sites.

    Each unit gets a grade, and the ``k`` units with the highest grades are taken.
    """

    # Random keys (Bean 1994): every vector of keys is a mask of k units, so nothing is rejected or repaired. Every
    # unit has one parameter that means the same in all suggestions, so TPE can learn its worth, and a child in NSGA
    # has the units that both parents grade high. A list of k layers offers neither. The keys are a few categories,
    # because multivariate TPE settles in the corners of real-valued ones: at 15 of 30 layers it repeated four masks
    # in five, and with four grades one in thirty. A fixed order breaks ties. Its start is a parameter too, because
    # random search would otherwise draw the same units too often.

    family: Literal["exactly_k"] = "exactly_k"
    k: int = Field(ge=0)
    """Number of layers or sites to choose. At zero, or at all of them, there is only one mask."""
    per: Literal["layer", "site"] = "layer"
    """Whether layers or sites are counted."""

    @override
    def units(self, shape: ModelShape) -> tuple[Unit, ...]:
        layers = super().units(shape)
        units = layers if self.per == "layer" else _split(layers)
        if self.k > len(units):
            rule = f"k must be in 0..{len(units)} {self.per}s for this model"
            raise SponError(f"{rule}, but got {self.k} (at search.masks.k)")
        return units

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        units = self.units(shape)
        if self.k in (0, len(units)):
            return {}
        return {**{_name(unit): list(range(GRADES)) for unit in units}, TIES: range(len(units))}

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        units = self.units(shape)
        order = random.Random(0).sample(range(len(units)), len(units))

        def rank(place: int) -> tuple[int, int]:
            return -params.get(_name(units[place]), 0), (order[place] + params.get(TIES, 0)) % len(units)

        best = sorted(range(len(units)), key=rank)[: self.k]
        return tuple(site for place in sorted(best) for site in units[place])

    @override
    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        chosen = _chosen(sites, self.units(shape))
        if chosen is None or sum(chosen.values()) != self.k:
            return None
        if self.k in (0, len(chosen)):
            return {}
        return {**{_name(unit): (GRADES - 1) * is_in for unit, is_in in chosen.items()}, TIES: 0}


class Window(_Family):
    """Contiguous layers, each with all ``modules``: a length in layers and a place."""

    family: Literal["window"] = "window"
    min_length: int = Field(default=1, ge=1)
    """Minimum number of layers."""
    max_length: int | None = Field(default=None, ge=1)
    """Maximum number of layers. All of the model by default."""

    def _ranges(self, shape: ModelShape) -> tuple[range, range]:
        """Lengths and places."""
        depth, most = shape.num_layers, self.max_length or shape.num_layers
        if not self.min_length <= most <= depth:
            rule = f"a window must have 1 <= min_length <= max_length <= {depth} layers for this model"
            got = f"min_length={self.min_length}, max_length={self.max_length}"
            raise SponError(f"{rule}, but got {got} (at search.masks)")
        return range(self.min_length, most + 1), range(depth - self.min_length + 1)

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        return dict(zip((LENGTH, PLACE), self._ranges(shape), strict=True))

    def _start(self, place: int, length: int, depth: int) -> int:
        """First layer of a window. ``place`` runs from 0 (earliest) to ``depth - min_length`` (latest) at any length.

        If the range of the start depended on the length, samplers would see another parameter at each length. If the
        last layer cut windows off, late windows would be drawn far more often.
        """
        places = depth - self.min_length
        return (2 * place * (depth - length) + places) // (2 * places) if places else 0

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        start = self._start(params[PLACE], params[LENGTH], shape.num_layers)
        return tuple(site for unit in self.units(shape)[start : start + params[LENGTH]] for site in unit)

    @override
    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        (lengths, places), chosen = self._ranges(shape), _chosen(sites, self.units(shape)) or {}
        layers = [unit[0].layer for unit, is_in in chosen.items() if is_in]
        if len(layers) not in lengths or layers[-1] - layers[0] + 1 != len(layers):
            return None
        place = next(p for p in places if self._start(p, len(layers), shape.num_layers) == layers[0])
        return {LENGTH: len(layers), PLACE: place}


class ModulePerLayer(_Family):
    """One of the ``modules`` in each layer, or none."""

    family: Literal["module_per_layer"] = "module_per_layer"

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        return {f"{unit[0].layer:02d}": [NOTHING, *self.modules] for unit in self.units(shape)}

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        every = (site for unit in self.units(shape) for site in unit)
        return tuple(site for site in every if site.module == params[f"{site.layer:02d}"])

    @override
    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        layers = {f"{site.layer:02d}": site.module for site in sites}
        if len(layers) != len(sites) or not {site.module for site in sites} <= set(self.modules):
            return None
        return {name: layers.get(name, NOTHING) for name in self._terms(shape)}


class Ranked(_Family):
    """The ``k`` sites that rank highest by a weighted sum of their gain, their depth and a bonus of their module.

    A search can learn the weights of a few terms from some dozens of masks, but not a bit for each of 210 sites. The
    parameters are the weights. Gain and depth are ranks from 0 to 1, and the bonus of a module has the same unit.
    """

    family: Literal["ranked"] = "ranked"
    k: int = Field(ge=1)
    """Number of sites with a bias."""
    gains: dict[str, float] | None = None
    """The gain of each site. Only their order counts. A sweep measures them (``GAIN``) if they are not given."""

    @override
    def units(self, shape: ModelShape) -> tuple[Unit, ...]:
        units = _split(super().units(shape))
        if self.k > len(units):
            raise SponError(f"k must be in 1..{len(units)} sites for this model, but got {self.k} (at search.masks.k)")
        return units

    def _terms(self, shape: ModelShape) -> dict[str, Term]:
        # A negative weight of depth prefers early layers
        return {"gain": Weight(0.0), "depth": Weight(-1.0), **{module: Weight(-1.0) for module in self.modules}}

    def _mask(self, params: Params, shape: ModelShape) -> tuple[Site, ...]:
        sites = [site for (site,) in self.units(shape)]
        gains = self._ranks(sites)
        depth = max(1, shape.num_layers - 1)

        def rank(site: Site) -> float:
            total: float = params["gain"] * gains[site] + params["depth"] * site.layer / depth + params[site.module]
            return total

        best = set(sorted(sites, key=lambda site: (-rank(site), -gains[site]))[: self.k])
        return tuple(site for site in sites if site in best)

    def _ranks(self, sites: list[Site]) -> dict[Site, float]:
        """The rank of each site by its gain, from 0 to 1."""
        gains = self.gains or {}
        if set(gains) != {str(site) for site in sites}:
            got = "none" if self.gains is None else f"{len(gains)} others"
            rule = f"gains must be those of the {len(sites)} sites of the masks"
            raise SponError(f"{rule}, but got {got} (at search.masks)")
        ascending = sorted(sites, key=lambda site: gains[str(site)])
        return {site: place / max(1, len(sites) - 1) for place, site in enumerate(ascending)}

    @override
    def params_of(self, sites: tuple[Site, ...], shape: ModelShape) -> dict[str, Any] | None:
        """Parameters that give these sites with a single term: the gain, early or late layers, or one module."""
        nothing: Params = dict.fromkeys(self._terms(shape), 0.0)
        alone = [("gain", 1.0), ("depth", -1.0), ("depth", 1.0), *((module, 1.0) for module in self.modules)]
        tried = ({**nothing, term: weight} for term, weight in alone)
        return next((weights for weights in tried if self._mask(weights, shape) == sites), None)


MaskFamily = Annotated[
    Subset | ExactlyK | Window | LayerModuleBits | ModulePerLayer | Ranked,
    Field(discriminator="family"),
]
