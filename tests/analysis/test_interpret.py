"""``python -m analysis interpret`` as a user runs it, through real Ray, on a real sweep."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from analysis.examine import QUESTIONS, Settings
from analysis.finding import read_analysis
from analysis.jobs import run_jobs
from analysis.prompts import read_prompts
from analysis.select import best_of_sweep, from_runs
from tests.swept import Ran, Swept, run
from trainables.tracking import EXPERIMENT

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Interpreted:
    """What ``analysis interpret`` did with a sweep."""

    swept: Swept
    prompts: Path
    ran: Ran

    @property
    def out(self) -> Path:
        return self.swept.folder.path / "analysis"

    def again(self, *arguments: object) -> Ran:
        return run(
            "interpret", *arguments, "--storage", self.swept.storage, "--prompts", self.prompts, module="analysis"
        )


@pytest.fixture(scope="module")
def interpreted(swept: Swept, prompts_file: Path) -> Interpreted:
    """The best two trials of each plan, by the command that the sweep names at its end."""
    (named,) = (line.split("-m analysis ")[1].split() for line in swept.ran.out.splitlines() if "interpret" in line)
    return Interpreted(swept, prompts_file, run(*named, "--prompts", prompts_file, module="analysis"))


def files(interpreted: Interpreted) -> list[Path]:
    return sorted(interpreted.out.glob("*/analysis.json"))


def test_every_question_is_answered_for_the_best_of_each_plan(interpreted: Interpreted) -> None:
    assert interpreted.ran.code == 0, interpreted.ran.out + interpreted.ran.err
    assert len(files(interpreted)) == 2  # TOP-75 and ATTN-ONLY; TEAL alone has no biases
    for file in files(interpreted):
        assert [finding.analysis for finding in read_analysis(file).findings] == list(QUESTIONS)


def test_progress_and_verdicts_are_printed(interpreted: Interpreted) -> None:
    assert "min left" in interpreted.ran.out
    verdict = read_analysis(files(interpreted)[0]).findings[0].verdict
    assert verdict in interpreted.ran.out


def test_checkpoints_without_a_shared_site_are_examined_but_not_compared(interpreted: Interpreted) -> None:
    assert "no comparison: checkpoints to compare must share a site" in interpreted.ran.out
    assert not (interpreted.out / "comparison.json").exists()


def test_what_was_answered_is_not_asked_again(interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("nothing was left to ask"))
    before = {file: file.stat().st_mtime_ns for file in files(interpreted)}
    checkpoints = best_of_sweep(interpreted.swept.storage, "tiny", 2, "val_kl_nats")
    settings = Settings(only=tuple(QUESTIONS), prompts=read_prompts(interpreted.prompts), chosen_on="validation")
    assert sorted(run_jobs(checkpoints, settings, interpreted.out)) == files(interpreted)
    assert {file: file.stat().st_mtime_ns for file in files(interpreted)} == before


def test_results_are_with_the_trials_runs_and_the_report_with_the_parent(interpreted: Interpreted) -> None:
    client = MlflowClient(interpreted.swept.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    for file in files(interpreted):
        identity = read_analysis(file).subjects[0].identity
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`spon.trial` = '{identity}'")
        assert "analysis/analysis.json" in {f.path for f in client.list_artifacts(run.info.run_id, "analysis")}
        found = {finding.analysis: finding.effects for finding in read_analysis(file).findings}
        kl = next(effect.value for effect in found["perplexity"] if effect.label == "of which KL")
        assert run.data.metrics["analysis/perplexity/of_which_kl"] == kl
        logged = {name.split("/")[1] for name in run.data.metrics if name.startswith("analysis/")}
        assert logged >= set(found) - {"norms"}  # two layers have no trend with depth
    parent = json.loads((interpreted.swept.folder.path / "parent.json").read_text())["run"]
    assert "analysis/report.html" in {f.path for f in client.list_artifacts(parent, "analysis")}


def test_a_run_of_mlflow_can_be_chosen(interpreted: Interpreted) -> None:
    trial = next(t for t in interpreted.swept.folder.trials if t.config.allocation == "TOP-75")
    run = json.loads((trial.path / "mlflow.json").read_text())["run"]
    (checkpoint,) = from_runs([run], interpreted.swept.tracking_uri)
    assert checkpoint.meta.config == trial.config


def test_checkpoints_can_be_compared_alone(interpreted: Interpreted, tmp_path: Path) -> None:
    here = {trial.config.allocation: trial.checkpoint_path for trial in interpreted.swept.folder.trials}
    other = tmp_path / "other" / "checkpoint"
    shutil.copytree(here["TOP-75"], other)
    meta = json.loads((other / "meta.json").read_text())
    meta["config"]["training"]["seed"] = 7
    (other / "meta.json").write_text(json.dumps(meta))
    ran = interpreted.again("--checkpoint", here["TOP-75"], other, "--only", "cross", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    (finding,) = read_analysis(tmp_path / "out" / "comparison.json").findings
    assert "other data order" in finding.effects[0].label
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["comparison.json"]
