"""The shipped spaces keep the identities of their trials: a change here begins every finished sweep anew."""

import hashlib
from pathlib import Path

import pytest

import search_spaces
from search_spaces.load import load_space
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.search import planned
from tests.search_spaces.conftest import make_shape

KEPT = {
    "demo": (2, "adf25b884255"),
    "embedded": (12, "5f8f5b701011"),
    "embedded-levels": (6, "c52b89a0e11d"),
    "embedded-search": (4, "7370a109606d"),
    "llama-3.1-8b": (12, "e66d3a347361"),
    "llama-3.1-8b-levels": (6, "d6bc3944a850"),
    "llama-3.2-1b": (12, "e66d3a347361"),
    "llama-3.2-1b-levels": (6, "d6bc3944a850"),
    "llama-3.2-1b-search": (7, "97db01f01bde"),
    "llama-3.2-3b": (12, "e66d3a347361"),
}


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(search_spaces.__file__).parent.glob("*.yaml")))
def test_the_trials_of_a_shipped_space_keep_their_identities(name):
    space = load_space(Path(name), ["model.dtype=float32"])
    if space.plan.is_measured:
        levels = {"0.down_proj": 0.25, "3.q_proj": 0.5}
        plan = space.plan.model_copy(update={"levels": levels, "level_method": "fisher"})
        space = space.model_copy(update={"plan": plan})
    if space.search:
        space = planned(space)
    named = tuple(a for a in space.allocations if not a.is_measured)
    space = space.model_copy(update={"allocations": named})
    trials = resolve_space(space, make_shape(8), Fingerprints("m", "c"))
    assert (len(trials), hashlib.sha256(" ".join(t.name for t in trials).encode()).hexdigest()[:12]) == KEPT[name]
