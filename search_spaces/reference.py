"""The schema of a space as JSON Schema for editors and as a page of Markdown for people."""

import json
import re
from collections.abc import Iterator
from typing import Any

from search_spaces.config import SpaceConfig

Schema = dict[str, Any]


def json_schema() -> str:
    """JSON Schema of a space as users write it, with short forms."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SpaceConfig.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


def as_markdown() -> str:
    """Every key of a space as Markdown: its values, default and meaning."""
    schema = SpaceConfig.model_json_schema()
    parts = [
        "# Every key of a space",
        "Generated from the schema by `make docs`. A YAML editor completes and checks the same keys: each shipped "
        "space names [space.schema.json](space.schema.json) in its first line.",
    ]
    for path, config in _configs(schema, schema, ""):
        rows = [_row(name, field, schema) for name, field in config["properties"].items() if "const" not in field]
        table = ["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows] if rows else []
        parts += [f"## {path or 'The space'}", _plain(config["description"]), "\n".join(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _configs(node: Schema, schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Each mapping of the schema once, with the path of its key and the tag that tells alternatives there apart."""
    yield path, node
    for name, field in node["properties"].items():
        for config in _mappings(field, schema):
            tag = next((f["const"] for f in config["properties"].values() if "const" in f), None)
            inner = f"{path}.{name}".lstrip(".")
            yield from _configs(config, schema, f"{inner}: {tag}" if tag else inner)


def _mappings(field: Schema, schema: Schema) -> Iterator[Schema]:
    """The configs that a key may hold, directly or in a list."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "properties" in field:
        yield field
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ()), field.get("items")):
        if option:
            yield from _mappings(option, schema)


def _row(name: str, field: Schema, schema: Schema) -> str:
    default = "needed" if "default" not in field else "" if isinstance(field["default"], dict) else _json(field)
    cells = (f"`{name}`", _kind(field, schema), default, _plain(field["description"]))
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _json(field: Schema) -> str:
    return "" if field["default"] is None else f"`{json.dumps(field['default'])}`"


def _kind(field: Schema, schema: Schema) -> str:
    """The values of a key, in words."""
    if any(True for _ in _mappings(field, schema)):
        short = [o["type"] for o in field.get("anyOf", ()) if o.get("type") == "string"]
        return "see below" + (", or a name" if short else "")
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        kinds = dict.fromkeys(_kind(option, schema) for option in options if option.get("type") != "null")
        return " or ".join(kinds)
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        inner = field.get("items") or field.get("prefixItems", [{}])[0]
        return f"list of {_kind(inner, schema)}"
    if field.get("type") == "object":
        return f"mapping to {_kind(field['additionalProperties'], schema)}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return names[field["type"]] + _limits(field)


def _limits(field: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    told = [f"{sign} {field[key]:.10g}" for key, sign in signs.items() if key in field]
    return f" {', '.join(told)}" if told else ""


def _plain(description: str) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"``+", "`", " ".join(description.split()))
