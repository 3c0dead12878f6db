"""The file of an evaluation: what is written is read, and what is measured again replaces the old."""

import pytest

from analysis.evaluation.stored import Evaluation, TaskScores, read_evaluation, write_evaluation
from search_spaces.errors import SponError

EMPTY = Evaluation(name="n", identity="i", allocation="UNIF-ALL", plan="p")


def task(name: str, metric: str = "acc", score: float = 0.0) -> TaskScores:
    return TaskScores(task=name, metric=metric, limit=1, fewshot=0, dense=(score,), teal=(score,), spon=(score,))


def test_what_is_written_is_read(tmp_path):
    evaluation = EMPTY.having([task("a"), task("b")])
    write_evaluation(evaluation, tmp_path / "new" / "evaluation.json")
    assert read_evaluation(tmp_path / "new" / "evaluation.json") == evaluation
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_a_task_that_is_scored_again_replaces_all_its_metrics():
    before = EMPTY.having([task("a"), task("a", "nll"), task("b")])
    after = before.having([task("a", score=1.0)])
    assert [(s.task, s.metric, s.dense) for s in after.tasks] == [("b", "acc", (0.0,)), ("a", "acc", (1.0,))]


@pytest.mark.parametrize("teal", [(), (0.0, 0.0)])
def test_items_that_are_not_paired_are_refused(teal):
    with pytest.raises(ValueError, match="same items"):
        TaskScores(task="a", metric="acc", limit=None, fewshot=0, dense=(0.0,), teal=teal, spon=(0.0,))


def test_a_foreign_file_is_one_line(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"schema_version": 2}')
    with pytest.raises(SponError, match=r"must be the evaluation\.json of .analysis evaluate.*schema_version"):
        read_evaluation(tmp_path / "evaluation.json")
