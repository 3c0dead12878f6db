"""The schema for editors: whole, and of one mind with the loader."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from search_spaces.config import json_schema

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted(ROOT.glob("search_spaces/*.yaml"))
SCHEMA = json.loads(json_schema())
BASE = {"name": "s", "sparsity": [0.5], "allocations": ["UNIF-ALL"]}


def accepts(space: dict[str, object]) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(space)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.stem)
def test_a_shipped_space_names_the_schema_and_satisfies_it(space):
    text = space.read_text()
    assert text.startswith("# yaml-language-server: $schema=../docs/space.schema.json\n")
    Draft202012Validator(SCHEMA).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "short",
    [
        {"plan": {"modules": "all", "levels": "fisher"}},
        {"plan": {"modules": "matched", "levels": {"3.down_proj": 0.4}}},
        {"plan": {"levels": ["uniform", "greedy"]}},
        {"allocations": [{"name": "TOP-50", "modules": "all"}, {"name": "mine", "sites": ["0.q_proj"]}]},
        {"search": {"masks": {"family": "subset"}, "algorithm": "nsga2", "stopping": "asha"}},
        {"search": {"masks": {"family": "ranked", "k": 3}, "algorithm": {"name": "tpe"}, "stopping": None}},
    ],
    ids=str,
)
def test_short_forms_that_the_loader_takes_are_in_the_schema(short):
    assert accepts(BASE | short)


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan": {"modules": "some"}},
        {"plan": {"rule": "top-k"}},
        {"sparsity": [1.5]},
        {"search": {"masks": {"family": "rank"}}},
        {"search": {"masks": {"family": "subset"}, "algorithm": "anneal"}},
        {"trainng": {}},
    ],
    ids=str,
)
def test_what_the_loader_refuses_an_editor_marks(wrong):
    assert accepts(BASE)
    assert not accepts(BASE | wrong)


def test_every_key_is_described():
    configs = [SCHEMA, *SCHEMA["$defs"].values()]
    fields = [(name, field) for config in configs for name, field in config.get("properties", {}).items()]
    assert len(fields) > 80
    assert [name for name, field in fields if "const" not in field and "description" not in field] == []
