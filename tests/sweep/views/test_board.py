import json
from itertools import cycle

import pandas as pd
import pytest

from search_spaces.errors import SponError
from search_spaces.sites import MODULES
from search_spaces.trial import TrialConfig, TrialPlan
from sweep.store.folder import SweepFolder
from sweep.views.board import COLUMNS, STATISTICS, make_board, pareto_flags, plan_title
from sweep.views.render import as_text
from tests.conftest import trials_of
from trainables.checkpoint import Checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench


@pytest.fixture(scope="module")
def checkpoints(tiny_space: dict[str, object]) -> list[Checkpoint]:
    """TEAL alone, one layer, both layers, and the other module: two plans."""
    trials = trials_of(tiny_space | {"allocations": ["BASELINE-TEAL", "TOP-50", "UNIF-ALL", "ATTN-ONLY"]})
    bench = Workbench(trials[0].model, trials[0].corpus, "cpu")
    return [run_trial(bench, trial) for trial in trials]


@pytest.fixture
def folder(checkpoints: list[Checkpoint], tmp_path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "tiny")
    for checkpoint in checkpoints:
        trial = folder.trial(checkpoint.meta.config)
        trial.start(checkpoint.meta.config)
        trial.store(checkpoint)
    return folder


def with_metrics(checkpoint: Checkpoint, **metrics: float) -> Checkpoint:
    meta = checkpoint.meta.model_copy(update={"metrics": checkpoint.meta.metrics | metrics})
    return Checkpoint(meta, checkpoint.biases, checkpoint.scores)


def test_a_board_has_a_row_a_trial_sorted_within_its_plan(folder: SweepFolder) -> None:
    board = make_board(folder)
    assert len(board) == 4
    for _, rows in board.groupby("plan"):
        assert rows["kl_nats"].is_monotonic_increasing
    assert (board["kl_nats_low"] <= board["kl_nats"]).all()
    assert (board["kl_nats"] <= board["kl_nats_high"]).all()
    ends = {f"{name}_{end}" for name in STATISTICS for end in ("low", "high")}
    assert set(board.columns) == set(COLUMNS) | ends
    assert len(json.loads(board.to_json(orient="records"))) == 4
    text = as_text(board)
    assert max(map(len, text.splitlines())) <= 100
    assert "down_proj at 60% (topk): dense PPL " in text


def test_a_row_is_compared_within_its_own_plan(folder: SweepFolder, checkpoints: list[Checkpoint]) -> None:
    board = make_board(folder).set_index("allocation")
    assert board.loc["ATTN-ONLY", "teal_kl_nats"] != board.loc["UNIF-ALL", "teal_kl_nats"]
    assert board.loc["ATTN-ONLY", "dense_ppl"] == board.loc["UNIF-ALL", "dense_ppl"]
    spon = checkpoints[3].scores["validation.spon"]
    teal = checkpoints[3].scores["validation.teal"]
    assert board.loc["ATTN-ONLY", "vs_teal_pct"] == pytest.approx(100 * (spon.ppl / teal.ppl - 1))
    columns = ["kl_minus_teal_nats", "kl_minus_teal_nats_low", "kl_minus_teal_nats_high"]
    assert list(board.loc["BASELINE-TEAL", columns]) == [0, 0, 0]


@pytest.mark.parametrize(
    ("modules", "levels", "tokens", "says"),
    [
        (("down_proj",), (0.525,), "all", "down_proj at 52.5% (topk)"),
        (("o_proj", "down_proj"), (0.55,), "second_half", "o_proj+down_proj at 55% (topk, second_half)"),
        (MODULES, (0.5,), "all", "all projections at 50% (topk)"),
        (("o_proj", "down_proj"), (0.4, 0.6), "all", "o_proj+down_proj@0.40-0.60#"),
    ],
)
def test_a_plan_of_one_level_is_named_in_words(
    tiny_trial: TrialConfig, modules: tuple[str, ...], levels: tuple[float, ...], tokens: str, says: str
) -> None:
    sites = {f"0.{module}": level for module, level in zip(modules, cycle(levels), strict=False)}
    plan = TrialPlan(levels=sites, rule="topk", tokens=tokens, calibration_blocks=1)
    assert plan_title(tiny_trial.model_copy(update={"plan": plan})).startswith(says)


def test_a_plan_of_measured_levels_is_named_by_its_mean(tiny_trial: TrialConfig) -> None:
    measured = tiny_trial.model_copy(update={"level_method": "fisher", "sparsity": 0.55})
    assert plan_title(measured) == "down_proj at 55% (fisher levels, topk)"


def test_no_board_without_a_finished_trial_and_none_of_the_test_split_before_it_is_scored(
    folder: SweepFolder, tmp_path
) -> None:
    with pytest.raises(SponError, match="test split is scored at the end"):
        make_board(folder, "test")
    with pytest.raises(SponError, match="needs a finished trial"):
        make_board(SweepFolder(tmp_path))


def test_a_trial_that_more_parameters_do_not_help_is_not_pareto(checkpoints: list[Checkpoint]) -> None:
    teal, one_layer, both, other_plan = checkpoints
    trials = [
        with_metrics(teal, val_kl_nats=1.0, val_teal_kl_nats=1.0),
        with_metrics(one_layer, val_kl_nats=0.5, val_teal_kl_nats=1.0),
        with_metrics(both, val_kl_nats=0.6, val_teal_kl_nats=1.0),
        with_metrics(other_plan, val_kl_nats=0.1, val_teal_kl_nats=0.2),
    ]
    assert pareto_flags(trials) == [True, True, False, True]
    worse_than_none = with_metrics(other_plan, val_kl_nats=0.3, val_teal_kl_nats=0.2)
    assert pareto_flags([worse_than_none]) == [False]


def test_recovery_is_not_given_where_teal_does_no_certain_damage(
    folder: SweepFolder, checkpoints: list[Checkpoint]
) -> None:
    trial = checkpoints[1]
    harmless = {**trial.scores, "validation.teal": trial.scores["validation.dense"]}
    folder.trial(trial.meta.config).store(Checkpoint(trial.meta, trial.biases, harmless))
    board = make_board(folder).set_index("allocation")
    assert pd.isna(board.loc["TOP-50", "ppl_recovered"])
    assert not pd.isna(board.loc["UNIF-ALL", "kl_recovered"])
