"""Do biases lie along the principal components of the activations at their site?

Chance alone gives some alignment: the largest of ten cosines of a random vector of width 2048 averages 0.042.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from analysis.finding import Effect, Finding, Row, number_in
from analysis.resampling import holm, mean, null_range, p_value
from analysis.subject import RESIDUAL_WRITERS, Subject, states_of
from search_spaces.errors import SponError
from search_spaces.sites import Site
from trainables.statistics import Array

NAME = "pca"
COMPONENTS = 10
"""Fewer if the text has too few tokens."""
_TOKENS_PER_COMPONENT = 50
_TOKENS = 2048
_DRAWS = 100_000
"""Draws of single vectors. The smallest possible p value must be below the level over the number of sites."""
_ROTATIONS = 500
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


def principal(activations: Tensor, components: int = COMPONENTS, centred: bool = True) -> Components:
    """Compute the leading principal components.

    Args:
        activations: (tokens, width), at least fifty tokens for each component.
        components: number of leading components.
        centred: subtract the mean first, as PCA does; otherwise the mean is usually the first component.

    Raises:
        SponError: if there are too few tokens or the width is below the number of components.
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


def align(bias: Tensor, components: Components) -> Tensor:
    """Compute magnitudes of the cosines of a bias (width,) with principal components; zero for a zero bias.

    The sum of their squares is the share of the bias's squared norm inside the components' span.
    """
    return (components.vectors.T @ bias.double()).abs() / (bias.double().norm() or 1.0)


@cache
def chance_cosines(width: int, components: int, draws: int = _DRAWS) -> Array:
    """Draw the largest |cosine| of a random direction with the first principal components, (draws,), ascending.

    The draw is exact. A random direction is a normal vector over its length, and any orthonormal components can serve
    as the first axes. The squares of the other entries add up to one chi-square variable, which is drawn instead.
    """
    generator = np.random.default_rng(0)
    along = np.square(generator.standard_normal((draws, components)))
    rest = 2 * generator.standard_gamma((width - components) / 2, draws)  # chi-square, also with 0 degrees of freedom
    return np.sort(np.sqrt(along.max(axis=1) / (along.sum(axis=1) + rest)))


def find(subject: Subject) -> Finding:
    """Align each bias with its site's output and with the residual stream after its layer, both in the dense model."""
    length = subject.blocks.tokens.shape[1] - 1
    n_blocks = min(-(-_TOKENS // length), len(subject.blocks.tokens))
    components = max(1, min(COMPONENTS, n_blocks * length // _TOKENS_PER_COMPONENT))
    places = _principal(subject, n_blocks, components)
    rows: list[Row] = []
    effects: list[Effect] = []
    for part, vectors in subject.parts.items():
        for (where, centred), of in places.items():
            chosen = _rows(vectors, of, where, centred)
            label = f"{part}{where}, {'centred' if centred else 'not centred'}"
            effects += _effects(label, chosen, vectors, of)
            rows += [] if part else chosen
    return Finding(
        analysis=NAME,
        title="PCA alignment",
        question=f"Do biases lie along the {components} leading principal components of their site's output, or of the "
        "residual stream?",
        null="Random vectors of the same width. For a site, the largest of as many cosines. For the share of the norm "
        "inside the components' span, one random rotation of all biases together, which keeps layers as alike as they "
        "are. Counts and p values are adjusted for all sites together (Holm): none by chance in 95% of cases. "
        f"Intervals are jackknives over sites. The first token of each block is left out.{subject.told}",
        effects=tuple(effects),
        verdict=_verdict(subject, effects),
        rows=tuple(rows),
    )


def _rows(vectors: Mapping[Site, Tensor], of: Mapping[Site, Components], where: str, centred: bool) -> list[Row]:
    rows = [_row(site, where, centred, align(vectors[site], components), components) for site, components in of.items()]
    adjusted = holm([number_in(row, "p") for row in rows])
    return [row | {"p": p} for row, p in zip(rows, adjusted, strict=True)]


def _activations(subject: Subject, n_blocks: int) -> tuple[dict[Site, Tensor], dict[int, Tensor]]:
    """Return outputs of the sites, and the residual stream after layers with a site that feeds it, (tokens, width)."""
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


def _principal(subject: Subject, n_blocks: int, components: int) -> dict[tuple[str, bool], dict[Site, Components]]:
    """Return the components of every site, by place and centring, without places that no site feeds."""
    outputs, residual = _activations(subject, n_blocks)
    found = {}
    for centred in (True, False):
        streams = {layer: principal(states, components, centred) for layer, states in residual.items()}
        found["output", centred] = {site: principal(states, components, centred) for site, states in outputs.items()}
        found["residual", centred] = {s: streams[s.layer] for s in outputs if s.module in RESIDUAL_WRITERS}
    return {key: found[key] for key in sorted(found, key=lambda key: (key[0], not key[1])) if found[key]}


def _row(site: Site, where: str, centred: bool, cosines: Tensor, components: Components) -> Row:
    width, n = components.vectors.shape
    chance, largest, share = chance_cosines(width, n), float(cosines.max()), float(cosines.square().sum())
    return {
        "site": str(site),
        "where": where,
        "centred": centred,
        "largest_cosine": largest,
        "component": int(cosines.argmax()) + 1,
        "chance_mean": float(chance.mean()),
        "chance_95": float(np.quantile(chance, 0.95)),
        "p": p_value(largest, chance),
        "share": share,
        "share_over_chance": share / (n / width),
        "width": width,
        "first_variance": float(components.variance[0]),
    }


def _effects(
    label: str, rows: list[Row], vectors: Mapping[Site, Tensor], of: Mapping[Site, Components]
) -> list[Effect]:
    beyond = [number_in(row, "p") < _LEVEL for row in rows]
    ratios = np.array([number_in(row, "share_over_chance") for row in rows])
    null = null_range(chance_ratios([(vectors[site], components) for site, components in of.items()]))
    return [
        Effect.count(f"{label}: sites whose largest cosine is beyond chance (Holm), of {len(rows)}", beyond),
        Effect.of(f"{label}: share in the span, over chance", mean(ratios), "ratio", null),
    ]


def chance_ratios(pairs: list[tuple[Tensor, Components]], draws: int = _ROTATIONS, seed: int = 0) -> Array:
    """Draw the mean over sites of share in the span over k / d, with all vectors of a width d randomly rotated as one.

    Args:
        pairs: a vector (d,) and k components of each site.
        draws: number of rotations, the length of the result.
        seed: of the rotations.
    """
    total = np.zeros(draws)
    for width in {len(vector) for vector, _ in pairs}:
        some = [(vector, components.vectors) for vector, components in pairs if len(vector) == width]
        units = np.stack([(vector / (vector.norm() or 1.0)).double().numpy() for vector, _ in some])
        spans = np.stack([components.numpy() for _, components in some])
        for draw, vectors in enumerate(turned(units, draws, seed + width)):
            total[draw] += np.square(vectors[:, None] @ spans).sum() * width / spans.shape[2]
    return total / len(pairs)


def turned(vectors: Array, draws: int, seed: int = 0) -> Iterator[Array]:
    """Turn all vectors (vectors, width) by the same random rotation, which keeps the angles between them."""
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        axes = np.linalg.qr(rng.standard_normal((vectors.shape[1], len(sizes))))[0]
        signs = rng.choice((-1.0, 1.0), len(sizes))  # the signs of a QR decomposition are not random
        yield (left * sizes * signs) @ axes.T


def _verdict(subject: Subject, effects: list[Effect]) -> str:
    if not any(bias.any() for bias in subject.trained.moved.values()):
        return f"{subject.judged}all are zero" if subject.start else "all biases are zero"
    said = {
        1: "more inside the span than chance",
        -1: "more outside the span than chance",
        0: "not clearly different from chance",
    }
    shares = effects[1 : len(effects) // len(subject.parts) : 2]
    return subject.judged + "; ".join(f"{share.label.partition(':')[0]}: {said[share.side]}" for share in shares)
