"""Atomic file writes, and configs as JSON files."""

import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from search_spaces.base import Config
from search_spaces.errors import SponError

C = TypeVar("C", bound=Config)


def read_config(kind: type[C], file: Path, rule: str) -> C:
    """Read a config from JSON. ``rule`` says what the file must be, and starts the message if it is not.

    Raises:
        SponError: if the file is missing or has another schema.
    """
    try:
        return kind.model_validate_json(file.read_text())
    except ValidationError as error:
        raise SponError(f"{rule}, but {first_fault(error)} (at {file})") from error
    except OSError as error:
        raise SponError(f"{rule}, but {error.strerror or error} (at {file})") from error


def write_config(config: Config, file: Path) -> None:
    """Write a config for ``read_config`` atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, config.model_dump_json(indent=1))


def write_whole(file: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a file atomically. Other processes and threads may read or write it at any time.

    Args:
        file: to replace. It keeps its old content if this process dies before the end.
        content: new content.
        sync: wait until the content is on disk, so that it survives a power loss too.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    aside = Path(name)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(content.encode() if isinstance(content, str) else content)
            opened.flush()
            if sync:
                os.fsync(descriptor)
        aside.chmod(0o644)  # mkstemp's 0o600 would hide files on shared storage from the user's group
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def first_fault(error: ValidationError) -> str:
    """The location and message of the first fault."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}"
