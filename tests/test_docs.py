"""What the README, the docs and the spaces say can be done: links lead somewhere, commands are understood."""

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.cli import cli as mlflow

from analysis.cli import command_line as analysis_line
from search_spaces.load import load_space, parse_space
from sweep.cli import command_line as sweep_line
from sweep.views.board import COLUMNS
from tests import reference
from trainables.scores import Scores
from trainables.trial import metrics_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


def test_the_index_leads_to_every_page() -> None:
    linked = {target for target, _ in _LINK.findall((ROOT / "docs/README.md").read_text())}
    assert {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("name", reference.PAGES)
def test_what_is_made_from_the_code_is_fresh(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == reference.PAGES[name](), "run `make docs`"


def test_the_reference_has_every_command_option_and_key() -> None:
    page = reference.commands()
    assert "## sweep find" in page
    assert "| `--budget MINUTES` | learn from as much text as this allows |" in page
    assert "## analysis interpret" in page
    assert "| `--top TOP` | with --sweep: trials of each sparsity plan (1) |" in page
    keys = reference.config()
    assert "| `lr` | number > 0 | `1e-05` | Peak learning rate of AdamW. |" in keys
    assert "| `algorithm` | see below, or a name |" in keys
    assert "## search.masks: ranked" in keys


def test_metrics_are_described_as_columns_of_the_board() -> None:
    scores = Scores(*(torch.ones(2),) * 8)
    names = metrics_of("val", scores, scores, scores)
    assert {name.removeprefix("val_") for name in names} <= set(COLUMNS)


def test_messages_that_a_page_quotes_are_those_of_the_code() -> None:
    code = "\n".join(file.read_text() for room in ("sweep", "trainables") for file in (ROOT / room).rglob("*.py"))
    quoted = re.findall(r'^\| "([^"]+)"', (ROOT / "docs/failures.md").read_text(), flags=re.MULTILINE)
    assert len(quoted) == 4
    assert all(message in code for message in quoted)


def test_the_readme_is_one_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1200


COMMANDS = {"sweep": sweep_line, "analysis": analysis_line}
_COMMAND = re.compile(r"-m (sweep|analysis) ([a-z][^`#\n]*)")


def commands() -> list[str]:
    """Every command line of the product, without its ``python -m``; such as ``sweep run SPACE.yaml``."""
    texts = [path.read_text() for path in (*PAGES, *sorted(ROOT.glob("search_spaces/*.yaml")))]
    found = {" ".join(match).strip().rstrip(",;.") for text in texts for match in _COMMAND.findall(text)}
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_a_command_is_understood(command: str) -> None:
    room, *words = shlex.split(command)
    arguments = COMMANDS[room]().parse_args(words)
    spaces = [word for word in words if word.startswith("search_spaces/")]
    for space in spaces:
        load_space(ROOT / space, getattr(arguments, "set", None))


def test_the_commands_of_every_page_are_found() -> None:
    rooms = [command.split()[:2] for command in commands()]
    assert ["sweep", "find"] in rooms
    assert ["analysis", "interpret"] in rooms
    assert len(rooms) > 30


def test_benchmarks_targets_and_requirements_that_are_named_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert all((ROOT / file).exists() for file in re.findall(r"-r (requirements\S*\.txt)", text))
    for name in re.findall(r"-m\s+tests\.benchmarks\.([a-z]+)", text):
        assert (ROOT / f"tests/benchmarks/{name}.py").exists(), name
    targets = re.findall(r"^([a-z./]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"`make ([a-z./]+)`|^make ([a-z./]+)", text, flags=re.MULTILINE)
    assert {name for pair in named for name in pair if name} <= set(targets)


def test_commands_of_mlflow_are_understood() -> None:
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    used = [re.findall(r" (--[a-z-]+)", line.split("mlflow ", 1)[1]) for line in lines if "mlflow server -" in line]
    known = {option for given in mlflow.commands["server"].params for option in given.opts}
    assert len(used) == 1
    assert {option for options in used for option in options} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_of_a_page_is_a_space(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        space = parse_space(yaml.safe_load(block), page.name)
        shipped = ROOT / f"search_spaces/{space.name}.yaml"
        assert not shipped.exists() or space == load_space(shipped)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page_imports_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module != "spon":  # that one is a file of the adapter
                module = import_module(node.module or "")
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
