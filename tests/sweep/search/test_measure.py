"""Allocations and levels that are measured first, through real Ray, on the tiny model."""

import json
from pathlib import Path

import pandas as pd
import pytest

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.resolve import resolve_grid
from sweep.search.measure import without_measured
from sweep.store.folder import SweepFolder
from tests.swept import run, write_space
from trainables.workbench import find_materials

MEASURED = ["GAIN-50", "GRADIENT-50", "CORNERSTONE-50", "CRITICAL-ONLY-50", {"name": "SHAPLEY-GUIDED", "above": -9.0}]


def measured_space(tiny_space: dict[str, object]) -> dict[str, object]:
    return tiny_space | {
        "plan": {"rule": "topk", "modules": ["o_proj", "down_proj"], "levels": "greedy"},
        "allocations": ["UNIF-ALL", *MEASURED],
        "training": {"lr": 0.03, "batch_size": 4, "epochs": 1},
        "resources": {"max_concurrent": 1},
    }


def test_what_need_not_be_measured_stays(tiny_space):
    measured, plain = (parse_space(raw, "test") for raw in (measured_space(tiny_space), tiny_space))
    space = without_measured(measured)
    assert [allocation.label for allocation in space.allocations] == ["UNIF-ALL"]
    assert not space.plan.is_measured
    assert without_measured(plain) == plain


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_measures_once_and_then_trains_what_was_chosen(tiny_space, tmp_path: Path) -> None:
    file = write_space(measured_space(tiny_space), tmp_path)
    ran = run("run", file, "--storage", tmp_path)
    assert ran.code == 0, ran.out + ran.err
    folder = SweepFolder(tmp_path / "tiny")
    board = pd.read_csv(folder.path / "board.csv")
    # On two layers all methods take one of two; SHAPLEY-GUIDED takes both, and is then UNIF-ALL
    assert "UNIF-ALL" in set(board["allocation"])
    assert {name.removesuffix("-50") for name in board["allocation"]} & {"GRADIENT", "CORNERSTONE", "CRITICAL-ONLY"}
    assert not any(name.startswith("only-") for name in board["allocation"])
    gain = next(trial.config for trial in folder.trials if trial.config.allocation == "GAIN-50")
    assert len(gain.sites) == 2  # of the four of o_proj and down_proj
    assert "SHAPLEY-GUIDED>-9 is the same mask as UNIF-ALL" in ran.out

    known = json.loads((folder.path / "importance.json").read_text())
    methods = sorted(key.split()[0] for key in known)
    assert methods == ["CORNERSTONE", "CRITICAL-ONLY", "GAIN", "GRADIENT", "SHAPLEY-GUIDED"]

    again = run("run", file, "--storage", tmp_path)
    assert again.code == 0, again.err
    assert "measuring" not in again.out
    assert "  start  " not in again.out


@pytest.mark.parametrize(
    "changes", [{"allocations": ["CORNERSTONE"]}, {"plan": {"levels": "greedy", "modules": ["o_proj"]}}]
)
def test_the_measured_cannot_be_resolved_unmeasured(tiny_space, changes):
    space = parse_space(tiny_space | changes, "test")
    materials = find_materials(space.model, space.corpus)
    with pytest.raises(SponError, match="must be measured first"):
        resolve_grid(space, materials.shape, materials.fingerprints)
