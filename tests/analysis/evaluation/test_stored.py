"""The file of an evaluation: what is written is read, and what is measured again replaces the old."""

import pytest

from analysis.evaluation.stored import Evaluation, TaskScores, TextScores, read_evaluation
from search_spaces.errors import SponError
from search_spaces.files import write_config

EMPTY = Evaluation(name="n", identity="i", allocation="UNIF-ALL", plan="p")


def task(name: str, metric: str = "acc", score: float = 0.0) -> TaskScores:
    return TaskScores(task=name, metric=metric, limit=1, fewshot=0, dense=(score,), teal=(score,), spon=(score,))


def test_what_is_written_is_read(tmp_path):
    evaluation = EMPTY.having([task("a"), task("b")])
    write_config(evaluation, tmp_path / "new" / "evaluation.json")
    assert read_evaluation(tmp_path / "new" / "evaluation.json") == evaluation
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_a_task_that_is_scored_again_replaces_all_its_metrics():
    before = EMPTY.having([task("a"), task("a", "nll"), task("b")])
    after = before.having([task("a", score=1.0)])
    assert [(s.task, s.metric, s.dense) for s in after.tasks] == [("b", "acc", (0.0,)), ("a", "acc", (1.0,))]


def text(name: str, cut: str, score: float) -> TextScores:
    parts = dict.fromkeys(("dense_nll", "teal_nll", "spon_nll", "teal_kl", "spon_kl"), (score,))
    return TextScores(text=name, fingerprint="f", cut=cut, tokens=1, **parts)


def test_a_text_is_replaced_where_it_is_cut_alike():
    before = EMPTY.having([task("a")], [text("t", "16", 0.0), text("t", "32", 0.0)])
    after = before.having(texts=[text("t", "16", 1.0)])
    assert [(s.cut, s.dense_nll) for s in after.texts] == [("32", (0.0,)), ("16", (1.0,))]
    assert after.tasks == before.tasks


@pytest.mark.parametrize("scores", [(), (0.0, 0.0)])
def test_scores_that_are_not_paired_are_refused(scores):
    with pytest.raises(ValueError, match="same text"):
        TextScores(**text("t", "16", 0.0).model_dump() | {"spon_kl": scores})
    with pytest.raises(ValueError, match="same items"):
        TaskScores(**task("a").model_dump() | {"teal": scores})


def test_a_foreign_file_is_one_line(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"schema_version": 2}')
    with pytest.raises(SponError, match=r"must be the evaluation\.json of .analysis evaluate.*schema_version"):
        read_evaluation(tmp_path / "evaluation.json")
