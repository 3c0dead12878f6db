from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.views.board import STATISTICS
from sweep.views.render import as_text, best_of, difference_figure, write_board


@pytest.fixture
def board() -> pd.DataFrame:
    """Three trials of two plans, with figures made up for the test."""
    rows = []
    for allocation, plan, params in (("BASELINE-TEAL", "a@0.50", 0), ("UNIF-ALL", "a@0.50", 64), ("X_1", "b@0.50", 32)):
        row = {"trial": allocation, "plan": plan, "allocation": allocation, "seed": 42, "sparsity": 0.5}
        row |= {"plan_title": plan.replace("@0.50", " at 50% (topk)")}
        row |= {"n_spon_layers": 2, "n_spon_params": params, "relative_params": 1.0, "split": "test", "pareto": True}
        row |= {"bootstrap_over": "documents", "realised_sparsity": 0.5}
        for name in STATISTICS:
            row |= {name: 0.25, f"{name}_low": 0.125, f"{name}_high": 0.5}
        rows.append(row)
    return pd.DataFrame(rows)


def test_text_has_a_table_a_plan_with_dense_and_teal_above_it(board: pd.DataFrame) -> None:
    assert as_text(board).splitlines() == [
        "a at 50% (topk): dense PPL 0.25; TEAL alone PPL 0.25, KL 0.2500 nats",
        "allocation     params  KL, nats [95%]           KL recovered [95%]      PPL  PPL recovered",
        "BASELINE-TEAL       0  0.2500 [0.1250, 0.5000]  +25.0% [+12.5, +50.0]  0.25         +25.0%",
        "UNIF-ALL           64  0.2500 [0.1250, 0.5000]  +25.0% [+12.5, +50.0]  0.25         +25.0%",
        "",
        "b at 50% (topk): dense PPL 0.25; TEAL alone PPL 0.25, KL 0.2500 nats",
        "allocation  params  KL, nats [95%]           KL recovered [95%]      PPL  PPL recovered",
        "X_1             32  0.2500 [0.1250, 0.5000]  +25.0% [+12.5, +50.0]  0.25         +25.0%",
        "",
        "[95%]: paired, over test documents; KL: KL(dense || sparse); recovered: of TEAL's damage",
    ]


def test_text_says_where_there_is_no_damage_to_recover_and_gives_no_interval_of_what_cannot_vary(
    board: pd.DataFrame,
) -> None:
    assert "no damage" not in as_text(board)
    board.loc[0, "ppl_recovered"] = np.nan
    *_, key = as_text(board).splitlines()
    assert as_text(board).count("no damage") == 2
    assert key.endswith("no damage: TEAL's is not certain")
    board[["kl_recovered", "kl_recovered_low", "kl_recovered_high"]] = 0.0
    assert " +0.0%  " in as_text(board)


SHIPPED = ("BASELINE-TEAL", "UNIF-ALL", "TOP-50", "TOP-75", "BOTTOM-50", "ATTN-ONLY")
TITLES = (
    "down_proj at 50% (threshold)",
    "o_proj+down_proj at 52.5% (threshold, second_half)",
    "q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj at 60% (threshold, second_half)",
    "q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj@0.41-0.62#ab12 threshold second_half",
)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize(
    "extra", ["SHAPLEY-GUIDED-50", "as-many-as-20-letters", "a-name-of-its-own-that-is-longer-than-that"]
)
def test_text_fits_100_columns(board: pd.DataFrame, title: str, split: str, extra: str) -> None:
    """With figures as wide as those of an 8B model that is badly damaged."""
    wide = {"ppl": 2345.67, "teal_ppl": 2345.67, "n_spon_params": 2_293_760, "ppl_recovered": np.nan}
    wide |= {"kl_recovered": -0.123, "kl_recovered_low": -0.456, "kl_recovered_high": 0.101}
    rows = [{**board.iloc[0], **wide, "allocation": name} for name in (*SHIPPED, extra)]
    rows = [row | {"plan": title, "plan_title": title, "split": split} for row in rows]
    lines = as_text(pd.DataFrame(rows)).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines if line.startswith(SHIPPED)] == list(SHIPPED)


def test_a_name_that_does_not_fit_is_cut(board: pd.DataFrame) -> None:
    board.loc[1, "allocation"] = "a-name-of-its-own-that-is-longer-than-that"
    (line,) = [line for line in as_text(board).splitlines() if line.startswith("a-name")]
    assert "a-name-of-its-own-that…  " in line


def test_every_form_is_written_with_its_columns_and_latex_escapes_names(board: pd.DataFrame, tmp_path: Path) -> None:
    names = {file.name for file in write_board(board, tmp_path) if file.stat().st_size}
    assert names == {"board.txt", "board.csv", "board.json", "board.tex", "board.png"}
    text = (tmp_path / "board.txt").read_text()
    assert "test split; 95% paired bootstrap over documents" in text
    assert "a@0.50 (realised 0.500): dense PPL 0.25; TEAL alone PPL 0.25" in text
    for column in ("layers", "KL - TEAL [95%]", "NLL nats", "PPL [95%]", "vs TEAL % [95%]", "vs dense", "Pareto"):
        assert column in text
    assert r"X\_1" in (tmp_path / "board.tex").read_text()


def test_the_figure_has_a_line_a_trained_trial(board: pd.DataFrame) -> None:
    left, right = difference_figure(board).axes
    assert [label.get_text().split(",")[0] for label in left.get_yticklabels()] == ["X_1", "UNIF-ALL"]
    assert "perplexity" in right.get_xlabel()


def test_of_many_trials_a_picture_and_a_screen_show_the_best_of_each_plan_and_teal_alone(
    board: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.views.render._MOST", 1)
    trials = [("first", "a", 64), ("second", "a", 64), ("TEAL", "a", 0), ("other", "b", 64), ("last", "b", 64)]
    many = pd.DataFrame([{**board.iloc[0], "allocation": n, "plan": p, "n_spon_params": k} for n, p, k in trials])
    assert list(best_of(many)["allocation"]) == ["first", "TEAL", "other"]
    labels = [label.get_text().split(",")[0] for label in difference_figure(many).axes[0].get_yticklabels()]
    assert labels == ["other", "first"]
