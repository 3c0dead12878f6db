"""YAML in, validated space out; every fault is one line."""

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from search_spaces.errors import SponError
from search_spaces.schema import Config, SpaceConfig

_RETIRED = {
    "plan.within_layer": "; write plan.levels: greedy",
    "plan.skip_first": "; plan.tokens is all or second_half",
    "training.loss": "; it is always the KL to the dense model: leave the key out",
    "training.logit_l2_weight": "; the loss is always the KL to the dense model: leave the key out",
    "search.proxy.n_warm": "; masks are no longer trained a second time: leave the key out",
    **{f"search.{key}": "; only masks are searched" for key in ("lr", "max_steps", "plan_modules", "constraint")},
    "search.sparsity": "; a search has the one sparsity of its space",
    "search.levels": "; levels are no longer searched by layer: write plan.levels: fisher",
}
"""Keys of earlier versions, and what to write instead."""


def load_space(path: Path, overrides: list[str] | None = None) -> SpaceConfig:
    """Read a space and apply ``--set`` overrides.

    Args:
        path: YAML file, or the name of a shipped space, such as ``embedded``.
        overrides: ``dotted.key=value`` pairs; the value is read as YAML.

    Raises:
        SponError: if the file cannot be read, is not a mapping, repeats a key, or does not satisfy the schema.
    """
    path = _shipped(path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        _check_repeats(yaml.compose(text, Loader=yaml.SafeLoader), str(path))
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
    return parse_space(raw, f"{path} with --set {' '.join(overrides)}" if overrides else str(path))


def _shipped(path: Path) -> Path:
    """The path, or the space of that name that comes with the product where there is no such file."""
    shipped = Path(__file__).parent / path.with_suffix(".yaml").name
    bare = path.parent in (Path(), Path("search_spaces"))
    return shipped if bare and not path.exists() and shipped.exists() else path


def parse_space(raw: dict[str, Any], where: str) -> SpaceConfig:
    """Validate a mapping read from ``where``.

    Raises:
        SponError: naming the first fault and how many more there are.
    """
    try:
        return SpaceConfig.model_validate(raw)
    except ValidationError as error:
        raise SponError(_one_line(error, where)) from error


def _check_repeats(node: Any, where: str) -> None:
    """Refuse a key that is written twice in one mapping, of which YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: list[Any] = []
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SponError(f"a key must be written once, but got {key.value!r} twice (at line {line} of {where})")
            seen.append(key.value)
            _check_repeats(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_repeats(value, where)


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


def _one_line(error: ValidationError, where: str) -> str:
    """Rule, value, field path; then the file and how many faults are left."""
    first, *rest = error.errors(include_url=False)
    loc = first["loc"]
    rest = [fault for fault in rest if fault["loc"] != loc[: len(fault["loc"])]]  # a bad item makes its list too short
    config, path = _walk(loc)
    match first["type"]:
        case "extra_forbidden":
            said = f"a key must be one of {', '.join(config.model_fields)}, but got {str(loc[-1])!r}"
            said += _RETIRED.get(".".join(path), "")
        case "missing":
            said = "a key that has no default must be given, but it is not there"
        case "union_tag_invalid":
            path.append(first["ctx"]["discriminator"].strip("'"))
            said = f"the value must be one of {first['ctx']['expected_tags']}, but got {first['ctx']['tag']!r}"
        case "union_tag_not_found":
            said = f"the key {first['ctx']['discriminator']} must be given, but got {first['input']!r}"
        case "value_error":
            said = str(first["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            said = f"the value must be a mapping of keys, but got {first['input']!r}"
        case "tuple_type":
            said = f"the value must be a list, but got {first['input']!r}"
        case _:
            said = f"{first['msg'].replace('Input should be', 'the value must be')}, but got {first['input']!r}"
    more = f"; {len(rest)} more to mend" if rest else ""
    return f"{said} (at {'.'.join(path) or 'the whole space'} in {where}){more}"


def _walk(loc: tuple[int | str, ...]) -> tuple[type[Config], list[str]]:
    """The config in which the last part of ``loc`` is a key, and the path to it as the user wrote it."""
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
            tag = next(parts, None)  # pydantic's, after the key; the user did not write it there
            inner = [kind for kind in inner if kind.model_fields[field.discriminator].default == tag]
        config = next(iter(inner), config)
    return config, path
