"""SPON: learned bias vectors at the outputs of chosen linear layers (arXiv:2512.12744).

y = W S(x) + b. ``output_bias`` learns b itself; ``input_vector`` learns a resting input a with b = W a, the paper's
form. At zero the model is the TEAL-only one. Parameters are fp32; ``trainables.sparse`` gives b to the layer's product.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import SponError
from search_spaces.sites import Site, site_order
from trainables.model import ResidentModel

Form = Literal["output_bias", "input_vector"]


class SponBiases:
    """The trainable part of a trial: one vector a biased site.

    Attributes:
        form: what the vectors are.
        vectors: site -> fp32 parameter of shape (out_features,) or (in_features,), by form.
        gains: site -> fp32 scalar parameter, after ``free_gains``; what is added is then v + gain * the start of v.
    """

    def __init__(self, model: ResidentModel, sites: tuple[Site, ...], form: Form) -> None:
        self.form = form
        self.vectors: dict[Site, nn.Parameter] = {}
        for site in sites:
            shape = model.shape.sites[site]
            width = shape.out_features if form == "output_bias" else shape.in_features
            self.vectors[site] = nn.Parameter(torch.zeros(width, device=model.device))
        self.gains: dict[Site, nn.Parameter] = {}
        self._starts: dict[Site, Tensor] = {}

    def parameters(self) -> list[nn.Parameter]:
        """The vectors in canonical site order, for an optimiser."""
        return list(self.vectors.values())

    def output(self, site: Site, layer: nn.Linear) -> Tensor:
        """The bias b of a site: (out_features,) in the layer's dtype, differentiable."""
        vector = self._whole(site).to(layer.weight.dtype)
        return vector if self.form == "output_bias" else F.linear(vector, layer.weight)

    @torch.no_grad()
    def correct(self, model: ResidentModel, resting: Mapping[Site, Tensor], scale: float) -> None:
        """Start from ``scale`` times a resting input a, (in_features,) a site: the vector is a, or W a, by form.

        A site without one, such as a biased site outside the plan, stays at zero.
        """
        for site in self.vectors.keys() & resting.keys():
            vector, a = self.vectors[site], resting[site] * scale
            a = a.to(vector.device, vector.dtype)
            vector.copy_(a if self.form == "input_vector" else model.linear(site).weight.to(vector.dtype) @ a)

    def free_gains(self) -> None:
        """Give each site a gain on the vector that it has now, to be trained beside the vector.

        A gradient on a few thousand tokens tells how much of a start is right long before it tells each entry.
        """
        self._starts = {site: vector.detach().clone() for site, vector in self.vectors.items()}
        self.gains = {site: nn.Parameter(torch.zeros((), device=v.device)) for site, v in self.vectors.items()}

    def _whole(self, site: Site) -> Tensor:
        vector = self.vectors[site]
        return vector + self.gains[site] * self._starts[site] if site in self.gains else vector

    def state(self) -> dict[Site, Tensor]:
        """Detached fp32 copies of the vectors, gains included, on the CPU."""
        return {site: self._whole(site).detach().cpu().clone() for site in self.vectors}

    @torch.no_grad()
    def load(self, state: Mapping[Site, Tensor]) -> None:
        """Take over vectors of the same sites and shapes, strictly.

        Raises:
            ValueError: naming what is expected and what is there.
        """
        expected, got = ({str(s): tuple(v.shape) for s, v in of.items()} for of in (self.vectors, state))
        if expected != got:
            raise ValueError(f"biases must have the sites and shapes {expected}, but got {got}")
        for site, vector in self.vectors.items():
            vector.copy_(state[site])


def warm_start(biases: Mapping[Site, Tensor], sites: Iterable[Site]) -> dict[Site, Tensor]:
    """Copies of the shared vectors of some sites, in canonical order.

    Args:
        biases: shared vectors, (out_features,) or (in_features,) by form.
        sites: a mask's.

    Raises:
        SponError: if a site has no shared bias.
    """
    chosen = sorted(set(sites), key=site_order)
    if unknown := [site for site in chosen if site not in biases]:
        listed = ", ".join(str(s) for s in sorted(biases, key=site_order)) or "none"
        raise SponError(
            f"a mask must switch on shared biases only, but {unknown[0]} has none; there are {listed} (at mask)"
        )
    return {site: biases[site].clone() for site in chosen}
