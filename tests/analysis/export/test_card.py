"""The model card: figures from the stored scores, and what a reader must be told."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from analysis.export.card import measured_table
from analysis.export.write import export
from tests.analysis.export.conftest import Exportable
from trainables.scores import Scores
from trainables.trial import report_test

MakeExport = Callable[..., Exportable]


def cells(table: str, model: str) -> list[float]:
    """KL, NLL and perplexity of a row, without their intervals."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {model} |")]
    return [float(cell.split()[0]) for cell in row.split("|")[2:5]]


def shares(table: str) -> list[float]:
    """The two recoveries, as fractions."""
    return [float(share) / 100 for share in re.findall(r"(?:KL|perplexity) ([+-][\d.]+)%", table)]


def test_the_table_is_that_of_the_stored_scores(make_export):
    trial = make_export()
    tested = report_test(trial.bench, trial.checkpoint)
    table, metrics = measured_table(tested), tested.meta.metrics
    assert "The test split" in table
    teal, spon = tested.scores["test.teal"], tested.scores["test.spon"]
    assert cells(table, "dense")[0] == 0
    assert cells(table, "dense")[2] == pytest.approx(metrics["test_dense_ppl"], abs=0.005)
    assert cells(table, "TEAL alone") == pytest.approx([teal.kl_nats, teal.nll_nats, teal.ppl], abs=0.005)
    assert cells(table, "TEAL and SPON") == pytest.approx([spon.kl_nats, spon.nll_nats, spon.ppl], abs=0.005)
    expected = [metrics["test_kl_recovered"], metrics["test_ppl_recovered"]]
    assert shares(table) == pytest.approx(expected, abs=0.0005)


def test_an_interval_holds_its_figure(make_export):
    table = measured_table(make_export().checkpoint)
    assert "The validation split" in table
    found = re.findall(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", table)
    assert len(found) == 9
    assert all(float(low) <= float(value) <= float(high) for value, low, high in found)
    assert any(float(low) < float(high) for _, low, high in found)


def test_a_recovery_of_no_certain_damage_is_not_given(make_export):
    checkpoint = make_export().checkpoint
    dense = checkpoint.scores["validation.dense"]
    unharmed: Scores = replace(dense, block_nll=dense.block_nll - 0.1, document_nll=dense.document_nll - 0.1)
    scores = {**checkpoint.scores, "validation.teal": unharmed}
    table = measured_table(replace(checkpoint, scores=scores))
    assert table.count("is not certain") == 2
    assert shares(table) == []


def test_the_card_of_an_absorbed_model_says_that_it_is_not_the_sparse_one(make_export, tmp_path):
    trial = make_export()
    export(trial.place, tmp_path / "whole", absorbed=True)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "By itself that is not the model measured below" in card
    export(trial.place, tmp_path / "adapter")
    assert "By itself" not in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    ("policy", "words"), [({}, "Every token is sparsified"), ({"tokens": "second_half"}, "all decoded tokens are")]
)
def test_the_card_says_which_tokens_are_sparse(policy, words, make_export, tmp_path):
    export(make_export(**policy).place, tmp_path / "adapter")
    assert words in (tmp_path / "adapter" / "README.md").read_text()
