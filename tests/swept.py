"""One real sweep on the tiny model, through real Ray and real MLflow, that many tests look at."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from sweep.store.folder import SweepFolder
from tests.warm import command_of

ROOT = Path(__file__).parents[1]
SECRETS = {
    "HF_TOKEN": "hf_planted0secret1of2a3user",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-a-user",
    "AWS_SECRET_ACCESS_KEY": "planted/key+of+a+cloud",
}
"""In the environment of every command, and nowhere else."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


@cache
def _tables() -> bytes:
    """A database of MLflow that has its tables, and nothing in them."""
    with tempfile.TemporaryDirectory() as place:
        MlflowClient(f"sqlite:///{place}/mlflow.db").search_experiments()
        return Path(place, "mlflow.db").read_bytes()


def tracking_in(directory: Path, name: str = "mlflow.db") -> str:
    """The URI of a new MLflow whose tables need not be made any more, which takes a second or more."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(_tables())
    return f"sqlite:///{directory / name}"


def command(*arguments: object, module: str = "sweep", cold: bool = False) -> list[str]:
    """What starts ``python -m sweep ...``: as a user does it if ``cold``, else with libraries and tables at hand."""
    words = [module, *map(str, arguments)]
    if cold:
        return [sys.executable, "-m", *words]
    storage = words[words.index("--storage") + 1] if "--storage" in words else "://"
    if "://" not in storage and not Path(storage, "mlflow.db").exists():
        tracking_in(Path(storage))
    return command_of(*words)


def run(
    *arguments: object, module: str = "sweep", timeout: float = 300, cache: Path | None = None, cold: bool = False
) -> Ran:
    """Run ``python -m sweep ...`` as a user would, with a cache of its own if one is given."""
    words = command(*arguments, module=module, cold=cold)  # before the environment is copied: it may add to it
    env = os.environ | SECRETS
    if cache is not None:
        env["SPON_CACHE"] = str(cache)
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)
    return Ran(done.returncode, done.stdout, done.stderr)


def write_space(raw: dict[str, object], directory: Path) -> Path:
    file = directory / "space.yaml"
    file.write_text(yaml.safe_dump(_as_yaml(raw)))
    return file


def _as_yaml(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_yaml(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Swept:
    """A finished sweep: what was run, what it printed, and its folder."""

    space: Path
    storage: Path
    ran: Ran

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.storage / "tiny")

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.storage / 'mlflow.db'}"


@pytest.fixture(scope="session")
def swept(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """BASELINE-TEAL, two names for one mask, and o_proj, at one sparsity."""
    directory = tmp_path_factory.mktemp("sweep")
    raw = tiny_space | {"allocations": ["BASELINE-TEAL", "TOP-75", "ADAPTIVE", "ATTN-ONLY"]}
    space = write_space(raw, directory)
    storage = directory / "runs"
    relative = os.path.relpath(storage, ROOT)  # as the default is
    # An empty cache: all is done. A cold start: what libraries print when they are imported would be seen
    ran = run("run", space, "--storage", relative, cache=directory / "cache", cold=True)
    return Swept(space, storage, ran)
