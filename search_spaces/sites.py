"""Sites: the linear layers of a decoder that can be sparsified or biased, addressed as ``layer.module``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BeforeValidator

from search_spaces.errors import SponError

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODULES: tuple[Module, ...] = get_args(Module)
Modules = Annotated[
    tuple[Module, ...],
    BeforeValidator(
        lambda value: MODULES if value == "all" else value,
        json_schema_input_type=Literal["all"] | tuple[Module, ...],
    ),
]
"""A list of module types, or ``all``, in a config."""


def module_label(modules: Iterable[Module]) -> str:
    """Module types for display, joined by ``+``, or ``all`` for all seven."""
    named = tuple(modules)
    return "all" if set(named) == set(MODULES) else "+".join(named)


class Site(NamedTuple):
    """One linear layer, written ``3.down_proj``. Sites sort by depth, then in the order of the forward pass."""

    layer: int
    module: Module

    def __str__(self) -> str:
        return f"{self.layer}.{self.module}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read ``3.down_proj``.

        Raises:
            SponError: if the text is not a layer index, a dot and one of the seven projections.
        """
        layer, _, module = text.partition(".")
        if not (layer.isascii() and layer.isdigit()) or module not in MODULES:
            raise SponError(f"a site must be LAYER.MODULE with a module of {', '.join(MODULES)}, but got {text!r}")
        return cls(int(layer), module)


def site_order(site: Site) -> tuple[int, int]:
    """Sort key: depth first, then the order in which a decoder layer runs its projections."""
    return site.layer, MODULES.index(site.module)


@dataclass(frozen=True)
class SiteShape:
    """Path and widths of a site in the Hugging Face model.

    Attributes:
        path: dotted module path, such as ``model.layers.3.mlp.down_proj``.
        in_features: entries of the input, which TEAL may set to zero.
        out_features: entries of an output bias.
    """

    path: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class ModelShape:
    """What allocations need to know about a model, from the model itself (``trainables.model.resident.read_shape``).

    Attributes:
        num_parameters: of the whole model. Tied parameters count once.
    """

    num_layers: int
    hidden_size: int
    vocab_size: int
    num_parameters: int
    sites: Mapping[Site, SiteShape]

    def check(self, sites: Iterable[Site], where: str) -> tuple[Site, ...]:
        """Check sites against the model and return them in canonical order.

        Raises:
            SponError: if a site is not in the model (the message lists what is) or named twice.
        """
        chosen = tuple(sites)
        for site in chosen:
            if not 0 <= site.layer < self.num_layers:
                raise SponError(
                    f"a layer must be in 0..{self.num_layers - 1} for this model, but got {site.layer} (at {where})"
                )
            if site not in self.sites:
                have = ", ".join(s.module for s in self.sites if s.layer == site.layer) or "none"
                raise SponError(f"no site {site} in this model; layer {site.layer} has: {have} (at {where})")
        if len(set(chosen)) != len(chosen):
            twice = next(str(site) for site in chosen if chosen.count(site) > 1)
            raise SponError(f"a site must be named once, but got {twice} twice (at {where})")
        return tuple(sorted(chosen, key=site_order))

    def shares(self, sites: Iterable[Site]) -> dict[Site, float]:
        """The share of each site in the weights of all given sites, which weights its level in a plan's sparsity."""
        weights = {site: self.sites[site].in_features * self.sites[site].out_features for site in sites}
        return {site: weight / sum(weights.values()) for site, weight in weights.items()}

    def n_params(self, sites: Iterable[Site], form: str) -> int:
        """Learned parameters of an allocation: output widths for ``output_bias``, input widths for ``input_vector``."""
        shapes = (self.sites[site] for site in sites)
        return sum(s.out_features if form == "output_bias" else s.in_features for s in shapes)

    def relative_params(self, n_params: int) -> float:
        """Parameters relative to an output bias on every layer's ``down_proj`` (1.0 = the SPON paper's allocation)."""
        reference = [shape.out_features for site, shape in self.sites.items() if site.module == "down_proj"]
        return n_params / sum(reference)
