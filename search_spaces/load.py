"""Loads a YAML file into a validated space, and reports each fault in one line."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from search_spaces.base import Config
from search_spaces.config import SpaceConfig
from search_spaces.errors import SponError

_RETIRED = {
    "plan.within_layer": "; write plan.levels: greedy",
    "plan.skip_first": "; plan.tokens is all or second_half",
    "training.loss": "; it is always the KL to the dense model: leave the key out",
    "training.logit_l2_weight": "; the loss is always the KL to the dense model: leave the key out",
    "search.algorithm.multivariate": "; TPE always models parameters jointly: leave the key out",
    "search.algorithm.constant_liar": "; parallel masks always differ: leave the key out",
    "search.stopping.grace_period": "; the first decision is after the first rung: leave the key out",
    "search.proxy.n_warm": "; masks are no longer trained a second time: leave the key out",
    **{f"search.{key}": "; only masks are searched" for key in ("lr", "max_steps", "plan_modules", "constraint")},
    "search.sparsity": "; a search has the one sparsity of its space",
    "search.levels": "; levels are no longer searched by layer: write plan.levels: fisher",
}
"""Keys of earlier versions, with what to write instead."""


def load_space(path: Path, overrides: list[str] | None = None) -> SpaceConfig:
    """Read a space and apply ``--set`` overrides.

    Args:
        path: YAML file, or the name of a shipped space, such as ``embedded``.
        overrides: ``dotted.key=value`` pairs with YAML values.

    Raises:
        SponError: if the file cannot be read, is not a mapping, repeats a key, or violates the schema.
    """
    path = _shipped(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader), str(path))
    except OSError as error:
        raise SponError(f"a space must be a readable file, but got: {error.strerror} (at {path})") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2026-02-31
        raise SponError(
            f"a space must be valid UTF-8 YAML, but got {' '.join(str(error).split())} (at {path})"
        ) from error
    if not isinstance(raw, dict):
        raise SponError(f"a space must be a mapping of keys, but got {type(raw).__name__} (at {path})")
    for override in overrides or []:
        _override(raw, override)
    changed = tuple(override.partition("=")[0] for override in overrides or [])
    lines = {key: line for key, line in lines.items() if not any(f"{key}.".startswith(f"{c}.") for c in changed)}
    return parse_space(raw, f"{path} with --set {' '.join(overrides)}" if overrides else str(path), lines)


def _shipped(path: Path) -> Path:
    """The path, or the shipped space of that name if there is no such file."""
    shipped = Path(__file__).parent / f"{path.name.removesuffix('.yaml')}.yaml"
    bare = path.parent in (Path(), Path("search_spaces"))
    return shipped if bare and not path.exists() and shipped.exists() else path


def parse_space(raw: dict[str, Any], where: str, lines: Mapping[str, int] | None = None) -> SpaceConfig:
    """Validate a mapping read from a file. ``lines`` gives the line of each key by its dotted path.

    Raises:
        SponError: with one line per fault.
    """
    try:
        return SpaceConfig.model_validate(raw)
    except ValidationError as error:
        raise SponError("\n".join(_faults(error, where, lines or {}))) from error


def _lines(node: Any, where: str, path: str = "") -> dict[str, int]:
    """The line of each key, by its dotted path.

    Raises:
        SponError: if a mapping has a key twice. YAML would silently keep the last.
    """
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        named = [(str(key.value), key.start_mark.line + 1, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        named = [(str(i), value.start_mark.line + 1, value) for i, value in enumerate(node.value)]
    else:
        return found
    for name, line, value in named:
        here = f"{path}.{name}" if path else name
        if here in found:
            raise SponError(f"a key must be written once, but got {name!r} twice (at line {line} of {where})")
        found |= {here: line, **_lines(value, where, here)}
    return found


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all((*parents, last)):
        raise SponError(f"an override must be KEY=VALUE, but got {override!r} (at --set)")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise SponError(f"an override must go through mappings, but {parent!r} is not one (at --set {override})")
    try:
        node[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise SponError(f"an override must have a YAML value, but got {value!r} (at --set {key})") from error


def _faults(error: ValidationError, where: str, lines: Mapping[str, int]) -> Iterator[str]:
    """One line per fault: rule, value, path of the key, file and line."""
    faults = error.errors(include_url=False)
    for fault in faults:
        loc = fault["loc"]
        if any(other["loc"][: len(loc)] == loc and other["loc"] != loc for other in faults):
            continue  # pydantic also reports the list of a bad item as too short
        said, path = _said(fault)
        key = ".".join(path)
        line = f", line {lines[key]}" if key in lines else ""
        yield f"{said} (at {key or 'the whole space'} in {where}{line})"


def _said(fault: ErrorDetails) -> tuple[str, list[str]]:
    """The rule and the value that broke it, and the path to it as the user wrote it."""
    loc = fault["loc"]
    config, path = _walk(loc)
    match fault["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(loc[-1]), config.model_fields, 1)
            said = f"a key must be one of {', '.join(config.model_fields)}, but got {str(loc[-1])!r}"
            said += _RETIRED.get(".".join(path), f"; did you mean {near[0]!r}?" if near else "")
        case "missing":
            said = "a key without a default must be given, but it is missing"
        case "union_tag_invalid":
            path.append(fault["ctx"]["discriminator"].strip("'"))
            said = f"the value must be one of {fault['ctx']['expected_tags']}, but got {fault['ctx']['tag']!r}"
        case "union_tag_not_found":
            said = f"the key {fault['ctx']['discriminator']} must be given, but got {fault['input']!r}"
        case "value_error":
            said = str(fault["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            said = f"the value must be a mapping of keys, but got {fault['input']!r}"
        case "tuple_type":
            said = f"the value must be a list, but got {fault['input']!r}"
        case _:
            said = f"{fault['msg'].replace('Input should be', 'the value must be')}, but got {fault['input']!r}"
    return said, path


def _walk(loc: tuple[int | str, ...]) -> tuple[type[Config], list[str]]:
    """The config that has the last part of ``loc`` as a key, and the path to it as the user wrote it."""
    config: type[Config] = SpaceConfig
    path: list[str] = []
    parts = iter(part for part in loc if part != "[key]")
    for part in parts:
        path.append(str(part))
        field = config.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)]
        if isinstance(field.discriminator, str):
            tag = next(parts, None)  # pydantic adds it after the key; the user did not write it
            inner = [kind for kind in inner if kind.model_fields[field.discriminator].default == tag]
        config = next(iter(inner), config)
    return config, path
