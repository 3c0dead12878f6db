"""A model shape made by hand and a small space, so that these tests need no model."""

from collections.abc import Callable
from typing import Any

import pytest

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints
from search_spaces.sites import MODULES, ModelShape, Site, SiteShape

WIDTHS = {
    "q_proj": (8, 8),
    "k_proj": (8, 4),
    "v_proj": (8, 4),
    "o_proj": (8, 8),
    "gate_proj": (8, 24),
    "up_proj": (8, 24),
    "down_proj": (24, 8),
}


def make_shape(depth: int) -> ModelShape:
    sites = {
        Site(layer, module): SiteShape(f"model.layers.{layer}.{module}", *WIDTHS[module])
        for layer in range(depth)
        for module in MODULES
    }
    return ModelShape(num_layers=depth, hidden_size=8, vocab_size=32, num_parameters=10**6, sites=sites)


def make_space(**changes: Any) -> SpaceConfig:
    """TOP-50 at 50%, with changes."""
    given = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": ["TOP-50"]}
    return SpaceConfig.model_validate(given | changes)


@pytest.fixture
def shape_of() -> Callable[[int], ModelShape]:
    """Makes the shape of a model of so many layers."""
    return make_shape


@pytest.fixture
def shape() -> ModelShape:
    """Eight layers; hidden width 8, MLP width 24, two key-value heads of four."""
    return make_shape(8)


@pytest.fixture
def fingerprints() -> Fingerprints:
    return Fingerprints(model="m", corpus="c")
