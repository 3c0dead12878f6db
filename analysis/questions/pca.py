"""Do biases lie along the principal components of what flows past them?

Chance has a say: the largest of ten cosines of a random vector of width 2048 is 0.042 on average.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.chance import ChanceAlignment, chance_alignment
from analysis.finding import Effect, Finding, Row
from analysis.resampling import chance_count, mean, null_range
from analysis.subject import RESIDUAL_WRITERS, Subject, states_of
from search_spaces.errors import SponError
from search_spaces.sites import Site
from trainables.statistics import Array

NAME = "pca"
COMPONENTS = 10
"""Fewer where the text has not enough tokens for them."""
_TOKENS_PER_COMPONENT = 50
_TOKENS = 2048
_DRAWS = 2000
_LEVEL = 0.05


@dataclass(frozen=True)
class Components:
    """Leading principal components of some activations.

    Attributes:
        vectors: orthonormal, (width, components), fp64.
        variance: share of the activations' variance (uncentred: of their squared norm) along each, (components,).
    """

    vectors: Tensor
    variance: Array


@dataclass(frozen=True)
class Alignment:
    """One bias and the leading components of some activations.

    Attributes:
        cosines: of the bias with each component, in magnitude, (components,).
        share: of the bias's squared norm inside their span.
    """

    cosines: Array
    share: float


def principal(activations: Tensor, components: int = COMPONENTS, centred: bool = True) -> Components:
    """Leading principal components.

    Args:
        activations: (tokens, width), at least fifty tokens a component.
        components: how many of the leading ones.
        centred: take the mean out first, as PCA does; without it, the mean is usually the first component.

    Raises:
        SponError: if there are too few tokens or not so many components.
    """
    tokens, width = activations.shape
    if tokens < _TOKENS_PER_COMPONENT * components or components > width:
        raise SponError(
            f"{components} components must have {_TOKENS_PER_COMPONENT * components} tokens of at least as many "
            f"features, but got {tokens} of {width} (at {NAME})"
        )
    x = activations.double()
    x = x - x.mean(dim=0) if centred else x
    if width <= tokens:
        values, vectors = torch.linalg.eigh(x.T @ x)
        leading = vectors[:, -components:]
    else:  # the same from the smaller of the two products
        values, vectors = torch.linalg.eigh(x @ x.T)
        leading = torch.nn.functional.normalize(x.T @ vectors[:, -components:], dim=0)
    return Components(leading.flip(1), (values[-components:].flip(0) / values.sum()).numpy())


def align(bias: Tensor, components: Components) -> Alignment:
    """Cosines of a bias (width,) with principal components; zero if it is zero."""
    length = bias.double().norm()
    cosines = (components.vectors.T @ bias.double()).abs() / (length if length else 1.0)
    return Alignment(cosines.numpy(), float(cosines.square().sum()))


def find(subject: Subject) -> Finding:
    """Ask it of every biased site, at its own output and in the residual stream after its layer, in the dense model."""
    tokens = min(_TOKENS, subject.blocks.tokens.numel())
    components = max(1, min(COMPONENTS, tokens // _TOKENS_PER_COMPONENT))
    outputs, residual = _activations(subject, tokens)
    rows = list(_rows(subject.biases, outputs, residual, components))
    effects = [
        effect
        for where, centred in (("output", True), ("output", False), ("residual", True), ("residual", False))
        if (chosen := [r for r in rows if (r["where"], r["centred"]) == (where, centred)])
        for effect in _effects(chosen, f"{where}, {'centred' if centred else 'not centred'}", components)
    ]
    verdict = _verdict(effects) if any(bias.any() for bias in subject.biases.values()) else "all biases are zero"
    if subject.start:  # what it began from, a mean of outputs, is in their span more than chance has it
        added = [r for r in _rows(subject.trained.moved, outputs, {}, components) if r["centred"]]
        effects += _effects(added, "output, centred, what training added to the start", components)
    return Finding(
        analysis=NAME,
        title="PCA alignment",
        question=f"Do biases lie along the {components} leading principal components of their site's output, or of the "
        "residual stream?",
        null="Random vectors of the same width, by itself for each site: the largest of so many cosines, and the share "
        "of their norm inside the components' span, which is components / width on average. Intervals are jackknives "
        "over sites. Each figure is by itself.",
        effects=tuple(effects),
        verdict=verdict,
        rows=tuple(rows),
    )


def _rows(
    biases: Mapping[Site, Tensor], outputs: Mapping[Site, Tensor], residual: Mapping[int, Tensor], components: int
) -> Iterator[Row]:
    for centred in (True, False):
        streams = {layer: principal(states, components, centred) for layer, states in residual.items()}
        for site, bias in biases.items():
            own = principal(outputs[site], components, centred)
            yield _row(site, "output", centred, align(bias, own), own)
            if site.module in RESIDUAL_WRITERS and site.layer in streams:
                stream = streams[site.layer]
                yield _row(site, "residual", centred, align(bias, stream), stream)


def _activations(subject: Subject, tokens: int) -> tuple[dict[Site, Tensor], dict[int, Tensor]]:
    """Outputs of the sites, and the residual stream after the layers that some feed directly, (tokens, width)."""
    n_blocks = -(-tokens // subject.blocks.tokens.shape[1])
    outputs: dict[Site, list[Tensor]] = {site: [] for site in subject.sites}
    residual: dict[int, list[Tensor]] = {s.layer: [] for s in subject.sites if s.module in RESIDUAL_WRITERS}
    text = subject.blocks.tokens[:n_blocks]
    for rows in subject.model.batches(text):
        states = states_of(subject.model, text[rows], subject.sites)
        for site in subject.sites:
            outputs[site].append(states.outputs[site].flatten(0, 1))
        for layer in residual:
            residual[layer].append(states.residual[layer].flatten(0, 1))
    return {s: torch.cat(parts) for s, parts in outputs.items()}, {at: torch.cat(p) for at, p in residual.items()}


@cache
def _chance(width: int, components: int) -> ChanceAlignment:
    return chance_alignment(width, components, _DRAWS)


def _row(site: Site, where: str, centred: bool, alignment: Alignment, components: Components) -> Row:
    width, n = components.vectors.shape
    chance = _chance(width, n)
    largest = float(alignment.cosines.max())
    return {
        "site": str(site),
        "where": where,
        "centred": centred,
        "largest_cosine": largest,
        "component": int(alignment.cosines.argmax()) + 1,
        "chance_mean": chance.mean,
        "chance_95": chance.percentile95,
        "p": chance.p_value(largest),
        "share": alignment.share,
        "share_over_chance": alignment.share / (n / width),
        "width": width,
        "first_variance": float(components.variance[0]),
    }


def _effects(rows: list[Row], label: str, components: int) -> list[Effect]:
    beyond = sum(float(row["p"]) < _LEVEL for row in rows)  # type: ignore[arg-type]
    ratios = np.array([row["share_over_chance"] for row in rows], dtype=np.float64)
    widths = np.array([row["width"] for row in rows], dtype=np.int64)
    return [
        Effect(
            label=f"{label}: sites whose largest cosine is beyond chance (p < {_LEVEL}), of {len(rows)}",
            value=beyond,
            null=chance_count(len(rows), _LEVEL),
            unit="sites",
        ),
        Effect.of(f"{label}: share in the span, over chance", mean(ratios), "ratio", _chance_ratio(widths, components)),
    ]


def _chance_ratio(widths: NDArray[np.int64], components: int) -> tuple[float, float]:
    """The mean ratio over sites for random vectors: each share is Beta(k / 2, (d - k) / 2)."""
    rng = np.random.default_rng(0)
    shares = rng.beta(components / 2, (widths - components) / 2, size=(_DRAWS, len(widths)))
    return null_range((shares / (components / widths)).mean(axis=1))


def _verdict(effects: list[Effect]) -> str:
    words = []
    for count, share in zip(effects[::2], effects[1::2], strict=True):
        assert share.null is not None
        assert count.null is not None
        side = "inside" if share.value > share.null[1] else "outside" if share.value < share.null[0] else None
        place = count.label.partition(":")[0]
        words.append(f"{place}: {'as chance would have it' if side is None else f'more {side} the span than chance'}")
    return "; ".join(words)
