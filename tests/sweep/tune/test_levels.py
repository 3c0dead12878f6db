"""Levels of a sweep: measured once, before its trials, kept, and set against one another."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search_spaces.allocations import BASELINE
from search_spaces.levels import predicted_kl
from search_spaces.sites import MODULES, Site
from sweep.store.folder import SweepFolder
from sweep.tune.levels import read_levels
from sweep.views.frontier import frontier_figure, frontier_of, levels_figure
from tests.swept import run, write_space
from trainables.workbench import find_materials


def space_of(tiny_space: dict[str, object]) -> dict[str, object]:
    return tiny_space | {
        "plan": {"rule": "threshold", "modules": list(MODULES), "levels": ["uniform", "greedy", "fisher"]},
        "sparsity": [0.4, 0.6],
        "allocations": [BASELINE, "ALL-SITES"],
        "training": {"lr": 0.03, "batch_size": 4, "epochs": 1},
    }


@pytest.fixture(scope="module")
def swept(tiny_space, tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepFolder, str, Path]:
    storage = tmp_path_factory.mktemp("levels")
    file = write_space(space_of(tiny_space), storage)
    ran = run("run", file, "--storage", storage)
    assert ran.code == 0, ran.out + ran.err
    return SweepFolder(storage / "tiny"), ran.out, file


@pytest.mark.ray
def test_each_plan_has_the_mean_that_was_asked_for(swept):
    folder, _, _ = swept
    found = read_levels(folder)
    assert found is not None
    assert [(plan.method, plan.sparsity) for plan in found.plans] == [
        (method, sparsity) for sparsity in (0.4, 0.6) for method in ("uniform", "greedy", "fisher")
    ]
    assert found.planned_share == pytest.approx(1)
    space = folder.space
    shape = find_materials(space.model, space.corpus).shape
    shares = np.array(list(shape.shares(shape.sites).values()))
    for plan in found.plans:
        levels = np.array(list(plan.levels.values()))
        assert shares @ levels == pytest.approx(plan.sparsity, abs=1e-5)
        curves = np.array([found.curves[site] for site in plan.levels])
        assert plan.predicted_kl_nats == pytest.approx(predicted_kl(curves, found.at, levels))
    for sparsity in (0.4, 0.6):
        predicted = {plan.method: plan.predicted_kl_nats for plan in found.plans if plan.sparsity == sparsity}
        assert min(predicted, key=predicted.__getitem__) == "fisher"


@pytest.mark.ray
def test_trials_run_at_the_levels_that_were_measured(swept):
    folder, _, _ = swept
    found = {(plan.method, plan.sparsity): plan.levels for plan in read_levels(folder).plans}
    configs = [trial.config for trial in folder.trials]
    assert len({config.identity for config in configs}) == len(configs) == 12
    for config in configs:
        wanted = found[config.level_method, config.sparsity]
        assert config.plan.levels == pytest.approx({site: level for site, level in wanted.items() if level > 0})
    labels = {config.plan_label for config in configs}
    assert {"all@0.40 fisher threshold", "all@0.60 greedy threshold", "all@0.60 threshold"} < labels


@pytest.mark.ray
def test_the_frontier_compares_plans_of_one_sparsity(swept):
    folder, out, _ = swept
    assert "weights skipped" in out
    frontier = pd.read_csv(folder.path / "frontier.csv", keep_default_na=False)
    assert list(frontier["levels"]) == 2 * ["uniform", "uniform", "greedy", "greedy", "fisher", "fisher"]
    assert list(frontier["biases"]) == 6 * ["none", "ALL-SITES"]
    assert list(frontier.loc[0, ["kl_of_uniform", "kl_of_uniform_low", "kl_of_uniform_high"]]) == [1, 1, 1]
    inside = (frontier["kl_of_uniform_low"] <= frontier["kl_of_uniform"]) & (
        frontier["kl_of_uniform"] <= frontier["kl_of_uniform_high"]
    )
    assert inside.all()
    board = pd.read_csv(folder.path / "board.csv")
    assert len(frontier_figure(frontier_of(folder, board, read_levels(folder)), 20.0).axes[0].containers) == 6
    for kind in ("frontier.txt", "frontier.png", "levels.png"):
        assert (folder.path / kind).stat().st_size > 100
    assert len(levels_figure(read_levels(folder).plans).axes) == 4 + 1  # and a scale


@pytest.mark.ray
def test_the_same_command_again_measures_and_trains_nothing_and_shows_the_table(swept):
    folder, _, file = swept
    kept = [folder.path / "levels.json", *sorted(folder.path.glob("trials/*/checkpoint/*"))]
    before = [one.stat().st_mtime_ns for one in kept]
    again = run("run", file, "--storage", folder.path.parent)
    assert again.code == 0, again.err
    assert "measuring" not in again.out
    assert "  start  " not in again.out
    assert "PPL" in again.out
    assert [one.stat().st_mtime_ns for one in kept] == before


@pytest.mark.slow
@pytest.mark.ray
def test_levels_alone_train_nothing(tiny_space, tmp_path):
    raw = space_of(tiny_space) | {"plan": {"rule": "topk", "modules": ["o_proj", "down_proj"], "levels": "fisher"}}
    ran = run("levels", write_space(raw, tmp_path), "--storage", tmp_path)
    assert ran.code == 0, ran.out + ran.err
    folder = SweepFolder(tmp_path / "tiny-levels")
    assert [trial.config.sites for trial in folder.trials] == [(), ()]
    found = read_levels(folder)
    assert 0 < found.planned_share < 1
    assert {Site.parse(site).module for site in found.curves} == {"o_proj", "down_proj"}
    skipped = pd.read_csv(folder.path / "frontier.csv")["weights_skipped"]
    np.testing.assert_allclose(skipped, np.array([0.4, 0.6]) * found.planned_share)
