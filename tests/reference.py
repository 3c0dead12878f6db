"""The reference pages that are made from the code: ``python -m tests.reference`` writes them into docs/."""

import argparse
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import analysis.cli
import sweep.cli
from search_spaces import allocations
from search_spaces.config import SpaceConfig, json_schema
from search_spaces.masks import MaskFamily
from search_spaces.sites import Site
from sweep.plan import summary
from sweep.store import folder
from sweep.views import frontier
from sweep.views.board import COLUMNS, STATISTICS

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "Made from the code by `make docs`."
DEPTH = 16
MODULES = (
    *("trainables.lab", "search_spaces.load", "search_spaces.allocations", "search_spaces.levels", "trainables.curves"),
    *("trainables.teal", "trainables.checkpoint", "trainables.scores", "trainables.statistics"),
    *("sweep.store.folder", "sweep.views.board", "analysis.select", "analysis.export.load"),
)
"""Those that a script would import."""
Schema = dict[str, Any]


def page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", *parts)) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def plain(docstring: str) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"``+", "`", " ".join(docstring.split()))


def first_line(thing: object) -> str:
    """The first paragraph of a docstring, as Markdown."""
    return plain((inspect.getdoc(thing) or "").split("\n\n")[0])


def config() -> str:
    schema = SpaceConfig.model_json_schema()
    parts = [
        "Generated from the schema by `make docs`. A YAML editor completes and checks the same keys: each shipped "
        "space names [space.schema.json](space.schema.json) in its first line.",
    ]
    for path, one in _configs(schema, schema, ""):
        rows = [_key(name, field, schema) for name, field in one["properties"].items() if "const" not in field]
        parts += [f"## {path or 'The space'}", plain(one["description"])]
        parts += [table(("key", "value", "default", "meaning"), rows)] if rows else []
    return page("Every key of a space", *parts)


def _configs(node: Schema, schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Each mapping of the schema once, with the path of its key and the tag that tells alternatives there apart."""
    yield path, node
    for name, field in node["properties"].items():
        for one in _mappings(field, schema):
            tag = next((f["const"] for f in one["properties"].values() if "const" in f), None)
            inner = f"{path}.{name}".lstrip(".")
            yield from _configs(one, schema, f"{inner}: {tag}" if tag else inner)


def _mappings(field: Schema, schema: Schema) -> Iterator[Schema]:
    """The configs that a key may hold, directly or in a list."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "properties" in field:
        yield field
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ()), field.get("items")):
        if option:
            yield from _mappings(option, schema)


def _key(name: str, field: Schema, schema: Schema) -> tuple[str, ...]:
    default = "needed"
    if "default" in field:
        own_table = field["default"] is None or isinstance(field["default"], dict)
        default = "" if own_table else f"`{json.dumps(field['default'])}`"
    return f"`{name}`", _kind(field, schema), default, plain(field["description"])


def _kind(field: Schema, schema: Schema) -> str:
    """The values of a key, in words."""
    options = field.get("anyOf") or field.get("oneOf") or []
    if any(_mappings(field, schema)):
        return "see below" + (", or a name" if any(o.get("type") == "string" for o in options) else "")
    if options:
        return " or ".join(dict.fromkeys(_kind(o, schema) for o in options if o.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        inner = field.get("items") or field.get("prefixItems", [{}])[0]
        return f"list of {_kind(inner, schema)}"
    if field.get("type") == "object":
        return f"mapping to {_kind(field['additionalProperties'], schema)}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {field[key]:.10g}" for key, sign in signs.items() if key in field)
    return f"{names[field['type']]} {limits}".rstrip()


def commands() -> str:
    parts = [MADE + " `spon-sweep` and `spon-analysis` are the same commands, installed by pip."]
    for room in (sweep.cli, analysis.cli):
        parser = room.command_line()
        (choice,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for name, command in choice.choices.items():
            rows = [(_spelled(a), _meaning(a)) for a in command._actions if a.dest != "help"]
            parts += [f"## {parser.prog.split()[-1]} {name}", _sentence(command.description)]
            parts += [table(("argument", "meaning"), rows)] if rows else []
    return page("Every command", *parts)


def _spelled(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    shown = "" if action.nargs == 0 else f" {value}" if action.option_strings else str(value)
    return f"`{', '.join(action.option_strings)}{shown}`"


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default))


def _sentence(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}."


def named_allocations() -> str:
    fixed = [name for name in allocations.NAMES if "<" not in name and "[" not in name]
    examples = ("TOP-50", "BOTTOM-50", "MIDDLE-50", "ALTERNATING-50", "RANDOM-4")
    rows = [(f"`{name}`", _sites(name)) for name in (*fixed, *examples)]
    measured = [(f"`{name}`, `{name}-<percent>`", by) for name, by in allocations.MEASURED.items()]
    families = get_args(get_args(MaskFamily)[0])
    searched = [(f"`{family.model_fields['family'].default}`", first_line(family)) for family in families]
    return page(
        "Allocations and families of masks",
        f"{MADE} An allocation says which sites have a bias. These are the sites in a model of {DEPTH} layers; numbers "
        "are percents of the depth, and a count for RANDOM. A mask of your own lists `layers` and `modules`, or "
        "`sites` ([keys](config.md#allocations)).",
        table(("allocation", "sites with a bias"), rows),
        "## Measured first",
        "These rank layers, or sites, by a figure of the model. `NAME-<percent>` takes that share of them, `NAME` "
        "those before the elbow.",
        table(("allocation", "ranks by"), measured),
        "## Families of masks",
        "What a search proposes: `search.masks.family`, with the keys of [each](config.md#searchmasks-subset).",
        table(("family", "masks"), searched),
    )


def _sites(name: str) -> str:
    layers, modules = allocations.named_allocation(name, DEPTH)
    return summary(tuple(str(Site(layer, module)) for layer in layers for module in modules))


def files() -> str:
    columns = [(f"`{name}`", "yes" if name in STATISTICS else "", meaning) for name, meaning in COLUMNS.items()]
    on_disk = [line.split("|")[1:-1] for line in (folder.__doc__ or "").splitlines() if line.startswith("|")][2:]
    nested = [(f"`{re.sub('^   ', 'TRIAL/', path).strip()}`", what.strip()) for path, what in on_disk]
    made = " ".join(re.search(r"Columns (.*?)\.\n", frontier.frontier_of.__doc__ or "", re.DOTALL)[1].split())
    return page(
        "Files and columns",
        f"{MADE} All paths are below `--storage`, `runs` by default; `TRIAL/` is `NAME/trials/TRIAL/`.",
        table(("path", "what it is"), nested),
        "## board.csv",
        "One row a finished trial. A column with an interval has `_low` and `_high` beside it, the ends of its 95% "
        "paired bootstrap. MLflow and a checkpoint have the same figures as `val_kl_nats`, `test_kl_nats` and so on.",
        table(("column", "interval", "meaning"), columns),
        "## frontier.csv",
        f"One row a trial of a sweep that measured levels: {made.replace('``', '`')}.",
    )


def api() -> str:
    parts = [MADE + " What a script would import; [examples](python.md)."]
    for name in MODULES:
        module = import_module(name)
        own = [thing for thing in _public(module) if thing.__module__ == name]
        rows = [(f"`{_called(thing)}`", first_line(thing)) for one in own for thing in (one, *_methods(one))]
        parts += [f"## {name}", first_line(module), table(("name", "what it is"), rows)]
    return page("Python API", *parts)


def _public(of: object) -> list[Callable[..., object]]:
    own = (thing for name, thing in vars(of).items() if not name.startswith("_") and thing.__doc__)
    return [thing for thing in own if inspect.isfunction(thing) or inspect.isclass(thing)]


def _methods(thing: object) -> list[Callable[..., object]]:
    return _public(thing) if inspect.isclass(thing) else []


def _called(thing: Callable[..., object]) -> str:
    taken = [] if inspect.isclass(thing) else [name for name in inspect.signature(thing).parameters if name != "self"]
    return thing.__qualname__ if inspect.isclass(thing) else f"{thing.__qualname__}({', '.join(taken)})"


PAGES: dict[str, Callable[[], str]] = {
    "space.schema.json": json_schema,
    "config.md": config,
    "commands.md": commands,
    "allocations.md": named_allocations,
    "files.md": files,
    "api.md": api,
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())
