"""The house rules of the four rooms, read off the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "search_spaces": {"search_spaces"},
    "trainables": {"trainables", "search_spaces"},
    "sweep": {"sweep", "search_spaces", "trainables"},
    "analysis": {"analysis", "search_spaces", "trainables"},
}
"""Rooms that a room may import."""
NEVER = {"search_spaces": {"torch", "ray", "transformers"}, "trainables": {"ray"}}
"""Heavy packages that a room does without."""
RAY_ADAPTERS = {"ray_trainable.py", "listener.py"}
INSIDE = {
    "sweep/terminal": [],
    "sweep/store": ["sweep.terminal"],
    "sweep/tune": ["sweep.terminal", "sweep.store"],
    "sweep/views": ["sweep.terminal", "sweep.store", "sweep.tune"],
    "sweep/search": ["sweep.terminal", "sweep.store", "sweep.tune", "sweep.views"],
    "trainables/demo": ["trainables.activity", "trainables.cache"],
    "trainables/model": ["trainables.activity", "trainables.cache", "trainables.demo"],
    "trainables/text": ["trainables.activity", "trainables.cache", "trainables.demo"],
    "analysis/questions": [f"analysis.{one}" for one in ("finding", "subject", "resampling")],
    "analysis/report": ["analysis.finding"],
    "analysis/export": [],
}
"""What the files of a folder may import of their own room, beside one another; those of the room itself see all."""


def modules_of(source: str) -> Iterator[str]:
    """Modules that a source imports, wherever in it: ``from room import name`` gives ``room.name``. Relative ones have
    their dots.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from [module] if "." in module else [f"{module}.{alias.name}" for alias in node.names]


@cache
def imports(folder: str) -> list[tuple[Path, str]]:
    """Each file below a folder with each module that it imports."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return [(file.relative_to(ROOT), module) for file in files for module in modules_of(file.read_text())]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_to_its_left_nothing_heavy_and_nothing_relative(room):
    forbidden = {*MAY_IMPORT, "tests", ""} - MAY_IMPORT[room] | NEVER.get(room, set())
    against = [
        f"{file} imports {module}"
        for file, module in imports(room)
        if (package := module.partition(".")[0]) in forbidden and not (package == "ray" and file.name in RAY_ADAPTERS)
    ]
    assert against == []


@pytest.mark.parametrize("folder", INSIDE)
def test_inside_a_room_imports_run_one_way(folder):
    room, allowed = folder.partition("/")[0], (folder.replace("/", "."), *INSIDE[folder])
    against = [
        f"{file} imports {module}"
        for file, module in imports(folder)
        if module.startswith(f"{room}.") and not any(f"{module}.".startswith(f"{one}.") for one in allowed)
    ]
    assert against == []


def test_every_folder_of_a_room_has_its_place_in_the_order():
    folders = {str(file.parent.relative_to(ROOT)) for room in MAY_IMPORT for file in (ROOT / room).rglob("*.py")}
    assert folders - set(MAY_IMPORT) - {"analysis/evaluation"} == set(INSIDE)


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("sweep.status, sweep.views.render, sweep.store.tracking", {"ray", "transformers"}),  # what only reads results
        ("sweep.run, sweep.plan", {"transformers", "datasets", "gguf"}),  # a driver whose cache is full
        ("search_spaces.load", {"optuna"}),
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
        ("def f():\n    if True:\n        from sweep.store.folder import SweepFolder", ["sweep.store.folder"]),
        ("import ray.tune as t, torch", ["ray.tune", "torch"]),
        ("from .near import x", [".near"]),
        ("from . import x", ["."]),
    ],
)
def test_the_reader_finds_modules_wherever_they_are(source, modules):
    assert list(modules_of(source)) == modules
