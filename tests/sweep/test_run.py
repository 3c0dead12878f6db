import re
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import ray
from mlflow import MlflowClient
from mlflow.cli import cli

from search_spaces.config import CorpusConfig, ModelConfig
from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.resolve import Fingerprints
from sweep.cli import main
from sweep.run import _check_outlasts, _check_same, _closing, _found, run_sweep
from sweep.store.folder import SweepFolder, create_sweep
from sweep.store.lock import driving
from sweep.terminal.display import ACTIVITY
from tests.swept import ROOT, SECRETS, Swept, run, write_space
from trainables.checkpoint import read_checkpoint
from trainables.text import documents

pytestmark = pytest.mark.ray


def test_a_sweep_ends_well_and_says_what_to_do_next(swept: Swept) -> None:
    assert swept.ran.code == 0, swept.ran.err
    *_, took, mlflow, analyse, use = swept.ran.out.splitlines()
    assert took.startswith("tiny took ")
    assert f"-m mlflow ui --backend-store-uri {swept.tracking_uri}" in mlflow
    assert "--host" not in mlflow  # MLflow listens on loopback
    (host,) = [option for option in cli.get_command(click.Context(cli), "ui").params if option.name == "host"]
    assert host.default == "127.0.0.1"
    assert "-m analysis interpret --sweep tiny" in analyse
    path = re.search(r" -m analysis export (\S+/tiny/trials/\S+/checkpoint) exported$", use)[1]
    checkpoints = [read_checkpoint(trial.checkpoint_path) for trial in swept.folder.trials]
    best = max(checkpoints, key=lambda c: c.meta.metrics["val_kl_recovered"])
    assert read_checkpoint(ROOT / path).meta.config.name == best.meta.config.name


def test_a_sweep_of_teal_alone_has_nothing_to_analyse_or_to_use(swept: Swept, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "teal")
    (teal,) = [trial for trial in swept.folder.trials if not trial.config.sites]
    folder.trial(teal.config).start(teal.config)
    folder.trial(teal.config).store(read_checkpoint(teal.checkpoint_path))
    took, compare = _closing(folder, "http://server:5000", 90).splitlines()
    assert took == f"teal took 1.5 min; table, figure and checkpoints are in {folder.path}"
    assert compare == "compare in MLflow:  http://server:5000"


def test_a_refused_driver_leaves_the_space_of_the_sweep_alone(
    tiny_raw: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_sweep(tmp_path, parse_space(tiny_raw, "test"))
    before = (folder.path / "space.json").read_text()
    for what in ("start_ray", "_check_outlasts"):  # either would start a Ray in this process
        monkeypatch.setattr(f"sweep.run.{what}", lambda *_: None)
    with driving(folder.path), pytest.raises(SponError, match="another driver holds this sweep"):
        run_sweep(parse_space(tiny_raw | {"seeds": [42, 43]}, "test"), tmp_path, "sqlite://")
    assert (folder.path / "space.json").read_text() == before


def test_a_file_in_the_place_of_a_sweep_is_one_line(
    tiny_raw: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").write_text("a file where the folder should be")
    for what in ("start_ray", "_check_outlasts"):
        monkeypatch.setattr(f"sweep.run.{what}", lambda *_: None)
    with pytest.raises(SponError, match="the output directory must be writable, but File exists"):
        run_sweep(parse_space(tiny_raw, "test"), tmp_path, "sqlite://")


def test_the_table_fits_100_columns_and_the_wide_one_is_the_file(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    board = ["board", "tiny", "--storage", str(swept.storage)]
    assert main(board) == 0
    table = capsys.readouterr().out
    assert table.strip() in swept.ran.out
    assert max(map(len, table.splitlines())) <= 100
    assert main([*board, "--wide"]) == 0
    assert capsys.readouterr().out == (swept.folder.path / "board.txt").read_text()


def test_every_distinct_trial_is_finished_once_and_tested_and_training_lowers_the_validation_kl(swept: Swept) -> None:
    checkpoints = {
        c.meta.config.allocation: c for c in (read_checkpoint(t.checkpoint_path) for t in swept.folder.trials)
    }
    assert sorted(checkpoints) == ["ATTN-ONLY", "BASELINE-TEAL", "TOP-75"]
    assert all("test.spon" in c.scores and "test_kl_nats" in c.meta.metrics for c in checkpoints.values())
    for allocation, checkpoint in checkpoints.items():
        gain = checkpoint.meta.metrics["val_teal_kl_nats"] - checkpoint.meta.metrics["val_kl_nats"]
        assert gain == 0 if allocation == "BASELINE-TEAL" else gain > 0
    assert not list(swept.folder.path.glob("tune/**/checkpoint_*"))  # a stage that has ended leaves no states
    assert list(swept.folder.path.glob("tune/*/*/stderr"))  # what a worker prints is kept
    assert not (swept.folder.path / ACTIVITY).exists()


@pytest.mark.parametrize(("storage", "kept"), [("runs", False), ("/mnt/results", True)])
def test_a_jobs_results_are_not_kept_in_its_copy_of_the_working_directory(
    storage: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SimpleNamespace(runtime_env={"working_dir": "gcs://_ray_pkg_1.zip"})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: job)
    with nullcontext() if kept else pytest.raises(SponError, match="an absolute path, but got runs"):
        _check_outlasts(Path(storage))


def test_no_secret_of_the_environment_is_written_or_printed(swept: Swept) -> None:
    files = [file for file in swept.storage.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"mlflow.db", "meta.json", "trial.json", "stderr"} <= names
    written = [swept.ran.out.encode(), swept.ran.err.encode(), *(file.read_bytes() for file in files)]
    for secret in SECRETS.values():
        assert not any(secret.encode() in text for text in written)


def test_the_driver_says_what_is_done_with_the_time_and_libraries_say_nothing(swept: Swept) -> None:
    before, after = swept.ran.out.split("\n\n", 1)  # the first empty line is that before the table
    lines = before.splitlines()
    assert lines[0] == "  0:00  loading libraries"
    assert all(re.match(r" *\d+:\d\d  ", line) for line in lines)
    assert after.startswith("down_proj at ")
    assert not re.search(r"^ *\d+:\d\d  ", after, re.MULTILINE)
    assert any(line.endswith("  starting Ray") for line in lines)
    assert any("ADAPTIVE is the same mask as TOP-75" in line for line in lines)
    for event in ("  start  ", "  done   "):
        assert sum(event in line for line in lines) == 3
    assert swept.ran.err == ""


@pytest.mark.parametrize(
    "what",
    [
        "loading the model",
        "teacher statistics of the calibration text",
        "baseline of the validation text",
        "training, step",
        "validation, batch",
        "teacher statistics of the test text",
        "test scoring, batch",
    ],
)
def test_it_says_what_its_workers_do(swept: Swept, what: str) -> None:
    assert f": {what}" in swept.ran.out


def test_a_trials_log_says_when_and_where_what_happened_and_is_an_artifact(swept: Swept) -> None:
    trial = next(trial for trial in swept.folder.trials if trial.config.allocation == "TOP-75")
    events = [line.split()[2] for line in trial.log_path.read_text().splitlines()]
    assert events == ["start", "valid", "valid", "done"]
    assert f" on {socket.gethostname()} (" in trial.log_path.read_text()
    client = MlflowClient(swept.tracking_uri)
    experiment = client.get_experiment_by_name("spon-sweep")
    (child,) = client.search_runs([experiment.experiment_id], "params.allocation = 'TOP-75'")
    stored = client.download_artifacts(child.info.run_id, "log.txt")
    assert Path(stored).read_text() == trial.log_path.read_text()


def test_a_sweep_goes_on_with_its_own_model_and_text_only(swept: Swept) -> None:
    config = swept.folder.trials[0].config
    own = Fingerprints(config.model_fingerprint, config.corpus_fingerprint)
    _check_same(swept.folder, own)
    with pytest.raises(SponError, match="the model and the text that it began with, but they have changed"):
        _check_same(swept.folder, replace(own, corpus="other"))


def test_the_driver_pins_the_commits_of_model_and_text_for_all_workers_and_a_resume(
    tiny_raw: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    shas, asked, found = {"main": "c" * 40}, [], []

    class Hub:
        def dataset_info(self, name: str, revision: str | None, timeout: float) -> SimpleNamespace:
            asked.append(revision)
            return SimpleNamespace(sha=shas["main"])

    def find(model: ModelConfig, corpus: CorpusConfig) -> SimpleNamespace:
        found.append(corpus.revision)
        return SimpleNamespace(model=SimpleNamespace(revision="m" * 40))

    monkeypatch.setattr(documents, "HfApi", Hub)
    monkeypatch.setattr("sweep.run.find_materials", find)
    raw = tiny_raw | {"model": {"source": "some/model"}, "corpus": {"source": "some/text"}}
    space, _ = _found(parse_space(raw, "test"))
    assert (space.model.revision, space.corpus.revision) == ("m" * 40, "c" * 40)
    shas["main"] = "d" * 40  # the hub has moved on
    again, _ = _found(space)
    assert (again.corpus.revision, found, asked) == ("c" * 40, ["c" * 40] * 2, [None])


def test_a_name_taken_by_another_space_is_refused(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(swept.space), "--storage", str(swept.storage), "--set", "training.epochs=3"]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: a sweep's name must stand for one space")


def test_mlflow_has_one_child_a_trial_with_params_metrics_and_the_checkpoint_under_the_parent(swept: Swept) -> None:
    client = MlflowClient(swept.tracking_uri)
    experiment = client.get_experiment_by_name("spon-sweep")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert (len(children), {r.info.status for r in runs}) == (3, {"FINISHED"})
    assert {"board.csv", "board.png"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}
    (child,) = [r for r in children if r.data.params["allocation"] == "TOP-75"]
    wanted = {"layer_00": "1", "layer_01": "0", "n_spon_params": "32", "relative_params": "0.5"}
    assert wanted.items() <= child.data.params.items()
    assert {"val_kl_nats", "val_ppl", "test_kl_nats", "train_loss_nats"} <= set(child.data.metrics)
    assert [m.step for m in client.get_metric_history(child.info.run_id, "train_loss_nats")] == [4, 8]
    files = {Path(a.path).name for a in client.list_artifacts(child.info.run_id, "checkpoint")}
    assert files == {"spon.safetensors", "meta.json", "scores.safetensors", "test.json", "test.safetensors"}


@pytest.mark.slow
def test_a_trial_that_diverges_is_marked_and_the_others_finish_and_it_is_tried_again_on_demand(
    tiny_space: dict[str, object], tmp_path: Path
) -> None:
    raw = tiny_space | {"allocations": ["BASELINE-TEAL", "UNIF-ALL", "CRITICAL-ONLY-50"]}
    raw["training"] = raw["training"] | {"lr": 1.0, "weight_decay": 1e30}
    ran = run("run", write_space(raw, tmp_path), "--storage", tmp_path / "runs")
    states = {trial.config.allocation: trial for trial in SweepFolder(tmp_path / "runs" / "tiny").trials}
    assert ran.code == 1
    assert states["BASELINE-TEAL"].state == "finished"
    assert states["UNIF-ALL"].state == "failed"
    assert "finite" in states["UNIF-ALL"].failure
    assert "finite" in ran.out.split("FAILED:")[1]
    assert "CRITICAL-ONLY-50 at 0.6 is left out: only-0_s0.60" in ran.out
    assert ran.out.count("  FAILED ") == 3  # UNIF-ALL, and the two that measure CRITICAL-ONLY
    again = run("resume", "tiny", "--storage", tmp_path / "runs", "--retry-failed", "--set", "resources.max_minutes=9")
    assert again.code == 1
    log = states["UNIF-ALL"].log_path.read_text()
    assert "tried again, after: " in log
    assert log.count("  FAILED ") == 2
    refused = run("resume", "tiny", "--storage", tmp_path / "runs", "--retry-failed", "--set", "training.lr=0.1")
    assert refused.code == 2
    assert states["UNIF-ALL"].state == "failed"  # and has kept its reason
