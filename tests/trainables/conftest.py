"""Fixtures of trainables' tests: the tiny workbench, caches of their own, a folder of wheels in place of an index."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.model.resident import ResidentModel
from trainables.workbench import Workbench

# Read before the session's own cache replaces it
_CACHE_OF_USER = os.environ.get("SPON_CACHE")


class _Elsewhere(ResidentModel):
    """A model that says that it is on another device."""

    device = torch.device("meta")


def elsewhere(model: ResidentModel) -> ResidentModel:
    """The same model, as far as anyone can tell on another device."""
    return _Elsewhere(**vars(model))


@pytest.fixture
def bench(tiny_bench: Workbench) -> Workbench:
    """The workbench of the tiny model."""
    return tiny_bench


@pytest.fixture
def tokens(bench: Workbench) -> Tensor:
    """Its calibration blocks, (blocks, seq)."""
    return bench.blocks("calibration").tokens


@pytest.fixture
def user_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of whoever runs the tests, so that what is large is fetched once and not in every session."""
    if _CACHE_OF_USER is None:
        monkeypatch.delenv("SPON_CACHE")
    else:
        monkeypatch.setenv("SPON_CACHE", _CACHE_OF_USER)


@pytest.fixture
def spon_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that the product uses during the test."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPON_CACHE", str(cache))
    return cache


@pytest.fixture
def add_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call it with a name, a member and its content to make that wheel all that pip can find; returns the SHA-256."""
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))

    def add(name: str, member: str, content: bytes, tag: str = "py3-none-any") -> str:
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheelhouse / f"{name}-1.0-{tag}.whl", "w") as archive:
            archive.writestr(member, content)
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent-dependency\n"
            archive.writestr(f"{info}/METADATA", metadata)
            archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            archive.writestr(f"{info}/RECORD", "")
        return hashlib.sha256(content).hexdigest()

    return add
