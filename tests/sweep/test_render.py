from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.board import STATISTICS
from sweep.render import as_latex, as_text, best_of, difference_figure, write_board


@pytest.fixture
def board() -> pd.DataFrame:
    """Three trials of two plans, with figures made up for the test."""
    rows = []
    for allocation, plan, params in (("BASELINE-TEAL", "a@0.50", 0), ("UNIF-ALL", "a@0.50", 64), ("X_1", "b@0.50", 32)):
        row = {"trial": allocation, "plan": plan, "allocation": allocation, "seed": 42, "sparsity": 0.5}
        row |= {"n_spon_layers": 2, "n_spon_params": params, "relative_params": 1.0, "split": "test", "pareto": True}
        row |= {"bootstrap_over": "documents", "realised_sparsity": 0.5}
        for name in STATISTICS:
            row |= {name: 0.25, f"{name}_low": 0.125, f"{name}_high": 0.5}
        rows.append(row)
    return pd.DataFrame(rows)


def test_text_has_a_table_a_plan_with_dense_and_teal_above_it(board: pd.DataFrame) -> None:
    text = as_text(board)
    assert "a@0.50 (realised 0.500): dense PPL 0.25; TEAL alone PPL 0.25" in text
    assert "b@0.50 (" in text
    assert "0.2500 [0.1250, 0.5000]" in text
    assert "over documents" in text


def test_text_says_where_there_is_no_damage_to_recover(board: pd.DataFrame) -> None:
    board["ppl_recovered"] = np.nan
    assert "no damage" in as_text(board)


def test_text_fits_a_wide_terminal(board: pd.DataFrame) -> None:
    assert max(map(len, as_text(board).splitlines())) <= 160


def test_latex_escapes_names(board: pd.DataFrame) -> None:
    assert r"X\_1" in as_latex(board)


def test_the_figure_has_a_line_a_trained_trial(board: pd.DataFrame) -> None:
    left, right = difference_figure(board).axes
    assert [label.get_text().split(",")[0] for label in left.get_yticklabels()] == ["X_1", "UNIF-ALL"]
    assert "perplexity" in right.get_xlabel()


def test_of_many_trials_a_picture_and_a_screen_show_the_best_of_each_plan_and_teal_alone(
    board: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.render._MOST", 1)
    trials = [("first", "a", 64), ("second", "a", 64), ("TEAL", "a", 0), ("other", "b", 64), ("last", "b", 64)]
    many = pd.DataFrame([{**board.iloc[0], "allocation": n, "plan": p, "n_spon_params": k} for n, p, k in trials])
    assert list(best_of(many)["allocation"]) == ["first", "TEAL", "other"]
    labels = [label.get_text().split(",")[0] for label in difference_figure(many).axes[0].get_yticklabels()]
    assert labels == ["other", "first"]


def test_every_form_is_written(board: pd.DataFrame, tmp_path: Path) -> None:
    names = {file.name for file in write_board(board, tmp_path) if file.stat().st_size}
    assert names == {"board.txt", "board.csv", "board.json", "board.tex", "board.png"}
