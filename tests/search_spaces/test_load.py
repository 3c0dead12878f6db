from pathlib import Path

import pytest

from search_spaces.errors import SponError
from search_spaces.load import load_space, parse_space
from search_spaces.resolve import resolve_space
from search_spaces.search import check_search

SPACES = Path(__file__).parents[2] / "search_spaces"
DEPTHS = {"embedded": 30, "llama-3.2-1b": 16, "llama-3.2-3b": 28, "llama-3.1-8b": 32}
SEARCHES = {"embedded-search": 30, "llama-3.2-1b-search": 16}
LEVELS = {"demo": 30, "embedded-levels": 30, "llama-3.2-1b-levels": 16, "llama-3.1-8b-levels": 32}
SMALL = "name: s\nsparsity: [0.5]\nallocations: [TOP-50]\ntraining: {epochs: 3}\n"


@pytest.fixture
def write(tmp_path):
    """Writes a space and gives its path."""

    def at(text: str) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return at


@pytest.fixture
def fault(write):
    """What a space is refused with, a line a fault."""

    def line(text: str, *overrides: str) -> str:
        with pytest.raises(SponError) as caught:
            load_space(write(text), list(overrides))
        return str(caught.value)

    return line


# The spaces that come with the product


def test_every_space_that_comes_with_the_product_is_tested():
    assert {path.stem for path in SPACES.glob("*.yaml")} == set(DEPTHS | SEARCHES | LEVELS)


@pytest.mark.parametrize("name", DEPTHS | SEARCHES | LEVELS)
def test_a_space_of_the_product_has_the_name_of_its_file(name):
    assert load_space(SPACES / f"{name}.yaml").name == name


@pytest.mark.parametrize(("name", "depth"), SEARCHES.items())
def test_a_search_of_the_product_fits_its_model(name, depth, shape_of):
    check_search(load_space(SPACES / f"{name}.yaml", ["model.dtype=bfloat16"]), shape_of(depth))


@pytest.mark.parametrize(("name", "depth"), DEPTHS.items())
def test_a_space_of_the_product_is_twelve_trials_at_its_models_depth(name, depth, shape_of, fingerprints):
    trials = resolve_space(load_space(SPACES / f"{name}.yaml", ["model.dtype=bfloat16"]), shape_of(depth), fingerprints)
    assert len(trials) == 12
    assert max(len(trial.sites) for trial in trials) == depth


@pytest.mark.parametrize(("name", "depth"), LEVELS.items())
def test_a_space_of_levels_sparsifies_and_biases_all_projections(name, depth, shape_of, fingerprints):
    space = load_space(SPACES / f"{name}.yaml", ["model.dtype=bfloat16"])
    assert space.plan.methods == (("uniform", "fisher") if name == "demo" else ("uniform", "greedy", "fisher"))
    uniform = space.plan.model_copy(update={"levels": ("uniform",)})
    known = tuple(allocation for allocation in space.allocations if not allocation.is_measured)
    trials = resolve_space(
        space.model_copy(update={"plan": uniform, "allocations": known}), shape_of(depth), fingerprints
    )
    assert [len(trial.sites) for trial in trials[:2]] == [0, len(trials[0].plan.levels)]
    assert len(trials[0].plan.levels) == len(shape_of(depth).sites)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"])
def test_the_llama_spaces_train_as_the_study_did(name):
    space = load_space(SPACES / f"{name}.yaml")
    training, corpus = space.training, space.corpus
    assert (training.batch_size, training.epochs, training.lr, training.seed) == (8, 10, 1e-5, 42)
    assert (training.schedule, training.weight_decay, training.max_grad_norm) == ("constant", 0.0, 1.0)
    assert (training.temperature, training.form) == (1.0, "output_bias")
    assert (corpus.block_size, corpus.blocks.calibration, corpus.blocks.test, corpus.pick) == (128, 2048, 1024, "first")
    assert (space.plan.rule, space.plan.tokens, space.plan.modules) == ("topk", "all", "matched")
    assert (space.sparsity, space.seeds, space.resources.device) == ((0.5, 0.6), (42,), "cuda")


# Overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.epochs=2", lambda s: s.training.epochs == 2),
        ("training.lr=1e-3", lambda s: s.training.lr == 1e-3),
        ("allocations=[UNIF-ALL]", lambda s: [a.label for a in s.allocations] == ["UNIF-ALL"]),
        ("allocations=[{name: a, layers: [0]}]", lambda s: s.allocations[0].layers == (0,)),
        ("plan.levels={3.down_proj: 0.4}", lambda s: s.plan.levels == {"3.down_proj": 0.4}),
        ("training.max_steps=null", lambda s: s.training.max_steps is None),
        ("corpus.blocks.test=5", lambda s: s.corpus.blocks.test == 5),
        ("model.source=a=b", lambda s: s.model.source == "a=b"),
    ],
)
def test_an_override_replaces_a_value_read_as_yaml(write, override, read):
    assert read(load_space(write(SMALL), [override]))


def test_an_override_leaves_its_neighbours(write):
    space = load_space(write(SMALL), ["training.lr=0.1"])
    assert (space.training.epochs, space.training.lr) == (3, 0.1)


def test_the_last_override_of_a_key_wins(write):
    assert load_space(write(SMALL), ["training.epochs=4", "training.epochs=5"]).training.epochs == 5


@pytest.mark.parametrize("override", ["nonsense", "=1", "", "training..epochs=1", ".epochs=1", "training.=1"])
def test_an_override_that_is_no_key_and_value_is_refused(fault, override):
    assert fault(SMALL, override) == f"an override must be KEY=VALUE, but got {override!r} (at --set)"


@pytest.mark.parametrize("override", ["name.first=1", "allocations.0=TOP-25"])
def test_an_override_through_a_value_is_refused(fault, override):
    assert "must go through mappings, but" in fault(SMALL, override)


@pytest.mark.parametrize("value", ["[1", "2026-02-31"])
def test_an_override_that_is_no_yaml_is_refused(fault, value):
    assert fault(SMALL, f"seeds={value}") == f"an override must have a YAML value, but got {value!r} (at --set seeds)"


def test_a_fault_that_an_override_may_have_brought_names_the_override(fault):
    assert fault(SMALL, "training.epochs=0").endswith("space.yaml with --set training.epochs=0)")


# Faults in one line: rule, value, field path, file


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SMALL + "speed: 1\n", ["a key must be one of name, model, corpus,", "but got 'speed'", "(at speed in "]),
        (
            SMALL + "plan: {rul: topk}\n",
            ["one of modules, layers, levels, bounds,", "'rul'", "(at plan.rul in "],
        ),
        (
            SMALL.replace("epochs: 3", "loss: ce"),
            ["'loss'; it is always the KL to the dense model: leave the key out (at"],
        ),
        (SMALL + "plan: {within_layer: greedy}\n", ["'within_layer'; write plan.levels: greedy (at plan.within_layer"]),
        (
            SMALL + "corpus: {blocks: {dev: 1}}\n",
            ["one of calibration, validation, test,", "(at corpus.blocks.dev in "],
        ),
        (
            "name: s\nsparsity: [0.5]\nallocations: [{name: a, layer: [1]}]\n",
            [
                "one of name, layers, modules, sites, seed, above, levels, but got 'layer'",
                "(at allocations.0.layer in ",
            ],
        ),
        (
            SMALL + "plan: {rule: magic}\n",
            ["the value must be 'topk' or 'threshold', but got 'magic'", "(at plan.rule "],
        ),
        (SMALL + "plan: {modules: [fc1]}\n", ["a module must be one of q_proj,", "got 'fc1'", "(at plan.modules in "]),
        (SMALL + "plan: {levels: {x: 0.1}}\n", ["a site must be LAYER.MODULE", "got 'x'", "(at plan.levels in "]),
        (
            SMALL + "corpus: {splits: {dev: x}}\n",
            ["'calibration', 'validation' or 'test'", "(at corpus.splits.dev in "],
        ),
        ("name: s\nsparsity: [1.5]\nallocations: [TOP-50]\n", ["less than 1, but got 1.5", "(at sparsity.0 in "]),
        ("name: s\nsparsity: 0.5\nallocations: [TOP-50]\n", ["must be a list, but got 0.5", "(at sparsity in "]),
        (
            "name: s\nsparsity: [0.5]\nallocations: [TOP-50, NOSUCH]\n",
            ["an allocation must be one of BASELINE-TEAL,", "but got 'NOSUCH'", "(at allocations.1 in "],
        ),
        ("name: s\nallocations: [TOP-50]\n", ["a key without a default must be given", "(at sparsity in "]),
        (SMALL + "model:\n", ["must be a mapping of keys, but got None", "(at model in "]),
        (SMALL + "seeds: [1, 1]\n", ["a seed must be listed once, but 1 is listed twice", "(at the whole space in "]),
    ],
)
def test_a_fault_is_one_line_with_rule_value_field_and_file(fault, text, parts):
    line = fault(text)
    assert [part for part in parts if part not in line] == []
    assert "space.yaml" in line
    assert "\n" not in line
    assert "Value error" not in line


def test_all_faults_are_said_each_with_its_line(fault):
    text = SMALL + "plan:\n  rul: topk\nallocation: [TOP-50]\n"
    ends = [f"space.yaml, line {text[: text.index(key)].count(chr(10)) + 1})" for key in ("rul", "allocation:")]
    assert [line.endswith(end) for line, end in zip(fault(text).splitlines(), ends, strict=True)] == [True, True]


def test_a_key_that_is_nearly_one_is_asked_about(fault):
    assert "but got 'allocatons'; did you mean 'allocations'? (at allocatons in " in fault(
        SMALL + "allocatons: [TOP-50]\n"
    )


def test_a_fault_that_an_override_brought_has_no_line_of_the_file(fault):
    text = SMALL + "plan: {rule: topk}\n"
    assert fault(text, "plan.rule=magic").endswith("space.yaml with --set plan.rule=magic)")
    assert fault(text, "plan={rule: magic}").endswith("space.yaml with --set plan={rule: magic})")


def test_a_bad_item_is_one_fault_though_its_list_is_then_too_short(fault):
    assert fault(SMALL, "sparsity=[1.5]").endswith("--set sparsity=[1.5])")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "a space must be a mapping of keys, but got NoneType"),
        ("- a\n", "a space must be a mapping of keys, but got list"),
        ("a: [1\n", "a space must be valid UTF-8 YAML, but got"),
        (SMALL + "name: t\n", "a key must be written once, but got 'name' twice (at line 5 of "),
        (SMALL + "plan: {rule: topk, rule: topk}\n", "a key must be written once, but got 'rule' twice"),
        (SMALL + "model: [{a: 1, a: 2}]\n", "a key must be written once, but got 'a' twice"),
    ],
)
def test_a_file_that_is_no_space_is_refused(fault, text, line):
    assert fault(text).startswith(line)
    assert "space.yaml)" in fault(text)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SponError, match=r"valid UTF-8 YAML"):
        load_space(path)


@pytest.mark.parametrize("missing", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, missing):
    with pytest.raises(SponError, match=r"a space must be a readable file, but got: .* \(at "):
        load_space(tmp_path / missing)


def test_a_mapping_is_read_without_a_file():
    assert parse_space({"name": "s", "sparsity": [0.5], "allocations": ["TOP-50"]}, "a test").name == "s"
