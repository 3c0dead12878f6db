"""A file becomes a space, and a fault of it one line with its place in the file."""

from pathlib import Path

import pytest

from search_spaces.errors import SponError
from search_spaces.load import load_space

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


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.lr=1e-3", lambda s: (s.training.epochs, s.training.lr) == (3, 1e-3)),
        ("allocations=[{name: a, layers: [0]}]", lambda s: s.allocations[0].layers == (0,)),
        ("plan.levels={3.down_proj: 0.4}", lambda s: s.plan.levels == {"3.down_proj": 0.4}),
        ("training.max_steps=null", lambda s: s.training.max_steps is None),
        ("corpus.blocks.test=5", lambda s: s.corpus.blocks.test == 5),
        ("model.source=a=b", lambda s: s.model.source == "a=b"),
    ],
)
def test_an_override_replaces_a_value_read_as_yaml_and_leaves_its_neighbours(write, override, read):
    assert read(load_space(write(SMALL), [override]))


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


def test_all_faults_are_said_each_with_its_line(fault):
    text = SMALL + "plan:\n  rul: topk\nallocation: [TOP-50]\n"
    assert [line.rpartition(", ")[2] for line in fault(text).splitlines()] == ["line 6)", "line 7)"]


@pytest.mark.parametrize("override", ["plan.rule=magic", "plan={rule: magic}", "training.epochs=0", "sparsity=[1.5]"])
def test_a_fault_that_an_override_brought_is_one_and_has_no_line_of_the_file(fault, override):
    (line,) = fault(SMALL + "plan: {rule: topk}\n", override).splitlines()
    assert line.endswith(f"space.yaml with --set {override})")


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
