"""The house rules of the four rooms, read off the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "search_spaces": {"search_spaces"},
    "trainables": {"trainables", "search_spaces"},
    "sweep": {"sweep", "search_spaces", "trainables"},
    "analysis": {"analysis", "search_spaces", "trainables"},
}
INSIDE = {
    "sweep/terminal": [],
    "sweep/store": ["sweep.terminal"],
    "sweep/tune": ["sweep.terminal", "sweep.store"],
    "sweep/views": ["sweep.terminal", "sweep.store", "sweep.tune"],
    "sweep/search": ["sweep.terminal", "sweep.store", "sweep.tune", "sweep.views"],
    "trainables/demo": ["trainables.activity", "trainables.cache"],
    "trainables/model": ["trainables.activity", "trainables.cache", "trainables.fingerprint", "trainables.demo"],
    "trainables/text": ["trainables.activity", "trainables.cache", "trainables.fingerprint", "trainables.demo"],
    "analysis/questions": [f"analysis.{one}" for one in ("finding", "subject", "resampling")],
    "analysis/report": ["analysis.finding"],
    "analysis/export": [],
}
"""What the files of a folder may import of their own room, beside one another; those of the room itself see all."""
HEAVY = {"torch", "ray", "transformers"}
RAY_ADAPTERS = frozenset({"ray_trainable.py", "listener.py"})


def imported(source: str) -> Iterator[str]:
    """Top-level packages that a source imports, wherever in it; a relative import gives its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level or (node.module or "").partition(".")[0]


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def wrong(room: str, forbidden: set[str], spared: frozenset[str] = frozenset()) -> list[str]:
    """The imports of a room that are forbidden, as ``file imports package``."""
    return [
        f"{path.relative_to(ROOT)} imports {package}"
        for path in files_of(room)
        if path.name not in spared
        for package in imported(path.read_text(encoding="utf-8"))
        if package in forbidden
    ]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_to_its_left(room):
    assert wrong(room, (set(MAY_IMPORT) | {"tests"}) - MAY_IMPORT[room]) == []


def modules_of(source: str, room: str) -> Iterator[str]:
    """Modules of a room that a source imports, wherever in it; ``from room import name`` gives ``room.name``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == room:
            names = [""] if "." in str(node.module) else [f".{alias.name}" for alias in node.names]
            yield from (f"{node.module}{name}" for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{room}."))


@pytest.mark.parametrize("folder", INSIDE)
def test_inside_a_room_imports_run_one_way(folder):
    room, allowed = folder.partition("/")[0], (folder.replace("/", "."), *INSIDE[folder])
    against = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files_of(folder)
        for module in modules_of(path.read_text(encoding="utf-8"), room)
        if not any(f"{module}.".startswith(f"{one}.") for one in allowed)
    ]
    assert against == []


def test_every_folder_of_a_room_has_its_place_in_the_order():
    folders = {str(path.parent.relative_to(ROOT)) for room in MAY_IMPORT for path in files_of(room)}
    assert folders - set(MAY_IMPORT) - {"analysis/evaluation"} == set(INSIDE)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_import_is_relative(room):
    assert wrong(room, {".", "..", "..."}) == []


def test_search_spaces_can_be_checked_without_the_heavy_libraries():
    assert wrong("search_spaces", HEAVY) == []


def test_ray_is_imported_in_trainables_by_the_adapters_only():
    assert wrong("trainables", {"ray"}, spared=RAY_ADAPTERS) == []


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("sweep.status, sweep.views.render, sweep.store.tracking", {"ray", "transformers"}),  # what only reads results
        ("sweep.run, sweep.plan", {"transformers", "datasets", "gguf"}),  # a driver whose cache is full
    ],
)
def test_a_command_starts_without_the_slow_libraries_that_it_can_do_without(modules, slow):
    code = f"import sys, {modules}; print(sorted({slow} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from sweep import run, plan", ["sweep.run", "sweep.plan"]),
        ("def f():\n    from sweep.store.folder import SweepFolder", ["sweep.store.folder"]),
        ("import sweep.cli, trainables.teal", ["sweep.cli"]),
    ],
)
def test_the_reader_finds_modules_of_the_room(source, modules):
    assert list(modules_of(source, "sweep")) == modules


@pytest.mark.parametrize(
    ("source", "packages"),
    [
        ("import ray.tune as t, torch", ["ray", "torch"]),
        ("from sweep.cli import main", ["sweep"]),
        ("def f():\n    if True:\n        import sweep", ["sweep"]),
        ("from .near import x", ["."]),
    ],
)
def test_the_reader_finds_imports_wherever_they_are(source, packages):
    assert list(imported(source)) == packages
