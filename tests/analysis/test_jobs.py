"""What is examined again and what is not. ``test_interpret`` runs the tasks themselves."""

from pathlib import Path

import pytest

from analysis import jobs
from analysis.examine import Settings, examined
from analysis.finding import Analysis, read_analysis
from analysis.jobs import _Progress, run_jobs
from search_spaces.errors import SponError
from search_spaces.files import write_config
from tests.analysis.test_finding import finding
from trainables.checkpoint import Checkpoint, read_checkpoint, write_checkpoint, write_test


@pytest.mark.parametrize("there", [".", "out", "out/{name}"])
def test_an_output_that_cannot_be_written_is_refused_before_ray_starts(
    there, checkpoint_of, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "connect_ray", lambda *_: pytest.fail("Ray was started"))
    checkpoint, storage = checkpoint_of("topk"), tmp_path / "storage"
    file = storage / there.format(name=checkpoint.meta.config.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a file where the directory should be")
    with pytest.raises(SponError, match=r"the output directory must be writable, but (Not a directory|File exists)"):
        run_jobs([checkpoint], settings, storage / "out")


def test_answers_outlive_a_later_test_report(
    checkpoint_of, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "connect_ray", lambda *_: pytest.fail("nothing was left to ask"))
    place, checkpoint = tmp_path / "checkpoint", checkpoint_of("topk")
    place.mkdir()
    write_checkpoint(checkpoint, place)
    file = tmp_path / checkpoint.meta.config.name / "analysis.json"
    known = Analysis(subjects=(examined(checkpoint, settings),), findings=(finding("worth"), finding("pca")))
    write_config(known, file)
    metrics = checkpoint.meta.metrics | {"test_kl_nats": 0.5}
    scores = dict(checkpoint.scores) | {"test.spon": checkpoint.scores["validation.spon"]}
    tested = Checkpoint(checkpoint.meta.model_copy(update={"metrics": metrics}), checkpoint.biases, scores)
    write_test(tested, place)
    again = read_checkpoint(place)
    assert "test_kl_nats" in again.meta.metrics
    assert run_jobs([again], settings.model_copy(update={"only": ("worth",)}), tmp_path) == [file]
    assert read_analysis(file) == known


def test_a_silence_says_which_question_is_under_way(checkpoint_of, capsys):
    checkpoint = checkpoint_of("topk")
    progress = _Progress([(checkpoint, "perplexity"), (checkpoint, "norms")], 8)
    progress.beat()
    for question in ("perplexity", "norms"):
        progress.done(checkpoint.meta.config.name, question)
        progress.beat()
    said = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()]
    assert said[0] == "perplexity is under way, 0% of all work is done"
    assert said[2] == "norms is under way, 75% of all work is done"
    assert said[4] == "reading biases"
