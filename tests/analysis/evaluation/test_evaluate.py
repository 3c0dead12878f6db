"""``python -m analysis evaluate`` from the command to the files and to MLflow."""

import pytest
from mlflow import MlflowClient

from analysis.cli import main
from analysis.evaluation import evaluate
from analysis.evaluation.harness import ANSWER_NLL
from analysis.evaluation.stored import read_evaluation
from tests.swept import tracking_in
from trainables.checkpoint import read_checkpoint
from trainables.tracking import EXPERIMENT, TRIAL_TAG


@pytest.fixture
def checkpoint(place_of):
    return place_of("all")


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_tasks_are_scored_printed_stored_and_logged(checkpoint, write_task, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    config = read_checkpoint(checkpoint).meta.config
    uri = tracking_in(tmp_path)
    client = MlflowClient(uri)
    experiment = client.create_experiment(EXPERIMENT, artifact_location=str(tmp_path / "artifacts"))
    trial = client.create_run(experiment, tags={TRIAL_TAG: config.identity}).info.run_id
    assert run(checkpoint, "--tasks", write_task(), "--storage", tmp_path) == 0
    folder = tmp_path / "analysis" / config.name
    stored = read_evaluation(folder / "evaluation.json")
    assert (stored.name, stored.identity, stored.plan) == (config.name, config.identity, config.plan_label)
    assert {scores.metric for scores in stored.tasks} == {"acc", "acc_norm", ANSWER_NLL}
    out = capsys.readouterr().out
    assert "of 3 metrics, clearly" in out
    assert str(folder / "evaluation.json") in out
    nll = next(scores for scores in stored.tasks if scores.metric == ANSWER_NLL)
    apart = sum(nll.spon) / 4 - sum(nll.teal) / 4
    logged = client.get_run(trial).data.metrics
    assert logged[f"eval/words/{ANSWER_NLL}/SPON - TEAL"] == pytest.approx(apart)
    assert logged["eval/words/acc/dense"] == stored.tasks[0].dense.count(1) / 4
    names = {file.path for file in client.list_artifacts(trial, "analysis")}
    assert names == {"analysis/evaluation.json", "analysis/evaluation.tex"}
    assert "longtable" in (folder / "evaluation.tex").read_text()


def test_text_comes_beside_the_trials_own_and_is_kept_beside_tasks(checkpoint, tmp_path, capsys):
    text = tmp_path / "other.txt"
    text.write_text(" ".join(f"w{i * 7 % 60}" for i in range(200)))
    name = read_checkpoint(checkpoint).meta.config.name
    window = ("--window", 32, "--stride", 16)
    assert run(checkpoint, "--text", text, "--blocks", 5, *window, "--storage", tmp_path) == 0
    stored = read_evaluation(tmp_path / "analysis" / name / "evaluation.json")
    assert [(s.text, s.cut) for s in stored.texts] == [
        ("its own validation split", "16"),
        ("other.txt", "16"),
        ("other.txt", "32/16"),
    ]
    assert [len(s.spon_kl) for s in stored.texts[1:]] == [5, 5]
    out, err = capsys.readouterr()
    assert "the biases clearly recover KL" in out
    assert err == ""


@pytest.mark.parametrize("option", ["--out", "--storage"])
def test_an_output_that_cannot_be_written_is_refused_before_the_model_loads(
    option, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate, "make_resident", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("a file where the directory should be")
    assert run(checkpoint, "--text", __file__, option, tmp_path / "file") == 2
    out, err = capsys.readouterr()
    assert "the output directory must be writable, but Not a directory" in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must have a task or a text"),
        (["--tasks", ","], "must have a task or a text"),
        (["--tasks", "own", "--window", "32"], "windows must have a text"),
        (["--text", "gone.txt"], "No such file"),
        (["--text", "gone.txt", "--blocks", "1"], "blocks must be at least 2, but got 1"),
        (["--text", __file__, "--window", "32", "--stride", "20"], "multiple of the 16 tokens"),
        (["--tasks", "own", "--limit", "0"], "limit must be at least 1, but got 0"),
    ],
)
def test_bad_input_is_one_line(arguments, message, checkpoint, tmp_path, capsys):
    assert run(checkpoint, *arguments, "--storage", tmp_path) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "analysis").exists()
