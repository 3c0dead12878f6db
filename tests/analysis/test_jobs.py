"""What is examined again and what is not. ``test_interpret`` runs the tasks themselves."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


class HereRay:
    """Runs tasks in this process, after a first silence."""

    def __init__(self) -> None:
        self.silent, self.running = True, True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: object) -> Any:
        return lambda function: SimpleNamespace(remote=function)

    def wait(self, streams: list[Iterator[Any]], **options: object) -> tuple[list[Iterator[Any]], list[Iterator[Any]]]:
        ready, self.silent = [] if self.silent else streams[:1], False
        return ready, streams

    def get(self, result: Any) -> Any:
        return result

    def shutdown(self) -> None:
        self.running = False


def test_tasks_are_followed_to_their_answers_or_their_fault(
    checkpoint_of, settings: Settings, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "connect_ray", lambda *_: None)
    monkeypatch.setattr(jobs, "ray", here := HereRay())
    checkpoints = [checkpoint_of("topk"), checkpoint_of("input_vector")]
    some = settings.model_copy(update={"only": ("moments", "cross"), "n_blocks": 4})
    files = run_jobs(checkpoints, some, tmp_path)
    names = [checkpoint.meta.config.name for checkpoint in checkpoints]
    assert files == [*(tmp_path / name / "analysis.json" for name in names), tmp_path / "comparison.json"]
    assert [[f.analysis for f in read_analysis(file).findings] for file in files] == [
        ["moments"],
        ["moments"],
        ["cross"],
    ]
    said = capsys.readouterr().out.splitlines()
    assert "moments is under way, 0% of all work is done" in said[0]
    assert "moments, about 0 min left" in said[-1]
    assert not here.running
    with pytest.raises(SponError, match=rf"{names[0]}: an analysis must have two blocks of text"):
        run_jobs(checkpoints[:1], settings.model_copy(update={"n_blocks": 1}), tmp_path)
