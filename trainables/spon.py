"""SPON: learned bias vectors at the outputs of chosen linear layers (arXiv:2512.12744).

y = W S(x) + b. ``output_bias`` learns b itself; ``input_vector`` learns a resting input a with b = W a, the paper's
form. At zero the model is the TEAL-only one. Parameters are fp32; ``trainables.sparse`` adds b inside the product.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.sites import Site
from trainables.model.resident import ResidentModel

Form = Literal["output_bias", "input_vector"]


class SiteBias(nn.Module):
    """The bias of one site. Trains its vector v and, after ``free_gain``, a gain on the v of that moment."""

    def __init__(self, width: int, form: Form, device: torch.device) -> None:
        super().__init__()
        self.form = form
        self.vector = nn.Parameter(torch.zeros(width, device=device))
        self.gain: nn.Parameter | None = None
        self.start: Tensor | None = None

    def free_gain(self) -> nn.Parameter:
        """Add a trainable gain: from now on the whole vector is v + gain * (v at this moment)."""
        self.start = self.vector.detach().clone()
        self.gain = nn.Parameter(torch.zeros((), device=self.vector.device))
        return self.gain

    def whole(self) -> Tensor:
        """The vector v with its gain, fp32."""
        if self.gain is None or self.start is None:
            return self.vector
        return self.vector + self.gain * self.start

    def forward(self, weight: Tensor) -> Tensor:
        """The output bias b for a weight (out_features, in_features): (out_features,) in the weight's dtype."""
        whole = self.whole().to(weight.dtype)
        return whole if self.form == "output_bias" else F.linear(whole, weight)


class SponBiases:
    """The trainable part of a trial: one vector per biased site.

    Attributes:
        form: what the vectors are.
        sites: site -> its bias.
        vectors: site -> fp32 parameter of shape (out_features,) or (in_features,), by form.
        gains: site -> fp32 scalar parameter, after ``free_gains``.
    """

    def __init__(self, model: ResidentModel, sites: tuple[Site, ...], form: Form) -> None:
        self.form, self._model = form, model
        self.sites = {site: self._new(site) for site in sites}
        self.vectors = {site: bias.vector for site, bias in self.sites.items()}
        self.gains: dict[Site, nn.Parameter] = {}

    @classmethod
    def of(cls, model: ResidentModel, vectors: Mapping[Site, Tensor], form: Form) -> "SponBiases":
        """Biases with the given vectors; a ``ValueError`` if one does not fit its site."""
        biases = cls(model, tuple(vectors), form)
        biases.load(vectors)
        return biases

    def _new(self, site: Site) -> SiteBias:
        shape = self._model.shape.sites[site]
        width = shape.out_features if self.form == "output_bias" else shape.in_features
        return SiteBias(width, self.form, self._model.device)

    def parameters(self) -> list[nn.Parameter]:
        """The vectors in canonical site order, for an optimiser."""
        return list(self.vectors.values())

    @torch.no_grad()
    def correct(self, resting: Mapping[Site, Tensor], scale: float) -> None:
        """Start from ``scale`` times a resting input a, (in_features,) per site: the vector is a or W a, by form.

        A site without a resting input, such as a biased site outside the plan, stays at zero.
        """
        for site in self.vectors.keys() & resting.keys():
            vector, a = self.vectors[site], resting[site] * scale
            a = a.to(vector.device, vector.dtype)
            weight = self._model.linear(site).weight
            vector.copy_(a if self.form == "input_vector" else weight.to(vector.dtype) @ a)

    def free_gains(self) -> None:
        """Give each site a trainable gain on its current vector.

        Gradients on a few thousand tokens determine the scale of a start long before they determine each entry.
        """
        self.gains = {site: bias.free_gain() for site, bias in self.sites.items()}

    def idle(self, site: Site) -> SiteBias:
        """A zero bias of the same structure, which no optimiser moves, for a site without one.

        It requires a gradient wherever its layer does, so that all layers share one build (``model.compiled``).
        """
        bias = self._new(site)
        if self.gains:
            bias.free_gain()
        bias.requires_grad_(site.layer >= min(other.layer for other in self.sites))
        return bias

    def state(self) -> dict[Site, Tensor]:
        """Detached fp32 copies of the vectors, gains included, on the CPU."""
        return {site: bias.whole().detach().cpu().clone() for site, bias in self.sites.items()}

    @torch.no_grad()
    def load(self, state: Mapping[Site, Tensor]) -> None:
        """Copy in vectors of the same sites and shapes; a ``ValueError`` if they differ."""
        expected, got = ({str(s): tuple(v.shape) for s, v in of.items()} for of in (self.vectors, state))
        if expected != got:
            raise ValueError(f"biases must have the sites and shapes {expected}, but got {got}")
        for site, vector in self.vectors.items():
            vector.copy_(state[site])
