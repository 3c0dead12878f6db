"""The shipped spaces: a schema for editors, sound trials, and identities that never change by accident."""

import hashlib
import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from search_spaces.config import json_schema
from search_spaces.load import load_space
from search_spaces.resolve import Fingerprints, resolve_space
from search_spaces.search import check_search, planned
from search_spaces.sites import MODULES
from tests.search_spaces.conftest import make_shape
from tests.swept import ROOT

SPACES = sorted(ROOT.glob("search_spaces/*.yaml"))
SCHEMA = json.loads(json_schema())
BASE = {"name": "s", "sparsity": [0.5], "allocations": ["UNIF-ALL"]}
# Number of trials and hash of their names at eight layers. A change here begins every finished sweep anew
KEPT = {
    "demo": (2, "adf25b884255"),
    "embedded": (12, "5f8f5b701011"),
    "embedded-levels": (6, "cd19a1170939"),
    "embedded-search": (4, "7370a109606d"),
    "llama-3.1-8b": (12, "e66d3a347361"),
    "llama-3.1-8b-levels": (6, "d6bc3944a850"),
    "llama-3.2-1b": (12, "e66d3a347361"),
    "llama-3.2-1b-levels": (6, "d6bc3944a850"),
    "llama-3.2-1b-search": (7, "97db01f01bde"),
    "llama-3.2-3b": (12, "e66d3a347361"),
}


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_space_has_the_name_of_its_file_names_the_schema_and_satisfies_it(file):
    assert load_space(file).name == file.stem
    assert file.read_text().startswith("# yaml-language-server: $schema=../docs/space.schema.json\n")
    Draft202012Validator(SCHEMA).validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_the_trials_of_a_space_keep_their_identities(file):
    space = load_space(file, ["model.dtype=float32"])
    if space.plan.is_measured:
        levels = {"0.down_proj": 0.25, "3.q_proj": 0.5}
        plan = space.plan.model_copy(update={"levels": levels, "level_method": "fisher"})
        space = space.model_copy(update={"plan": plan})
    if space.search:
        space = planned(space)
    named = tuple(a for a in space.allocations if not a.is_measured)
    space = space.model_copy(update={"allocations": named})
    trials = resolve_space(space, make_shape(8), Fingerprints("m", "c"))
    assert (len(trials), hashlib.sha256(" ".join(t.name for t in trials).encode()).hexdigest()[:12]) == KEPT[file.stem]


@pytest.mark.parametrize(("name", "depth"), [("embedded-search", 30), ("llama-3.2-1b-search", 16)])
def test_a_search_fits_its_model(name, depth):
    check_search(load_space(ROOT / f"search_spaces/{name}.yaml", ["model.dtype=bfloat16"]), make_shape(depth))


@pytest.mark.parametrize("file", [file for file in SPACES if file.stem == "demo" or "levels" in file.stem], ids=str)
def test_a_space_of_levels_measures_them_and_biases_all_projections(file):
    space = load_space(file)
    assert space.plan.methods == (("uniform", "fisher") if file.stem == "demo" else ("uniform", "greedy", "fisher"))
    assert space.plan.modules == MODULES
    assert [allocation.label for allocation in space.allocations[:2]] == ["BASELINE-TEAL", "ALL-SITES"]


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"])
def test_the_llama_spaces_train_as_the_study_did(name):
    space = load_space(ROOT / f"search_spaces/{name}.yaml")
    training, corpus = space.training, space.corpus
    assert (training.batch_size, training.epochs, training.lr, training.seed) == (8, 10, 1e-5, 42)
    assert (training.schedule, training.weight_decay, training.max_grad_norm) == ("constant", 0.0, 1.0)
    assert (training.temperature, training.form) == (1.0, "output_bias")
    assert (corpus.block_size, corpus.blocks.calibration, corpus.blocks.test, corpus.pick) == (128, 2048, 1024, "first")
    assert (space.plan.rule, space.plan.tokens, space.plan.modules) == ("topk", "all", "matched")
    assert (space.sparsity, space.seeds, space.resources.device) == ((0.5, 0.6), (42,), "cuda")


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
    assert Draft202012Validator(SCHEMA).is_valid(BASE | short)


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
    assert Draft202012Validator(SCHEMA).is_valid(BASE)
    assert not Draft202012Validator(SCHEMA).is_valid(BASE | wrong)


def test_every_key_is_described():
    configs = [SCHEMA, *SCHEMA["$defs"].values()]
    fields = [(name, field) for config in configs for name, field in config.get("properties", {}).items()]
    assert len(fields) > 80
    assert [name for name, field in fields if "const" not in field and "description" not in field] == []
