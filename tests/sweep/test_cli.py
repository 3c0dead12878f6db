"""What a user who is wrong sees: one line, status 2, before anything expensive starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from search_spaces.errors import SponError
from sweep.cli import command_line, main
from sweep.store.lock import driving
from tests.conftest import make_llama
from tests.swept import write_space


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused, and return its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("nosuch=1", "a key must be one of"),
        ("training.nosuch=1", "'nosuch'"),
        ("plan.modules=[nose_proj]", "'nose_proj'"),
        ("plan.rule=magic", "'magic'"),
        ("model.dtype=fp8", "must be 'auto', 'float32' or 'bfloat16', but got 'fp8'"),
        ("model.dtype=float16", "must be 'auto', 'float32' or 'bfloat16', but got 'float16'"),
        ("corpus.document=heading", "heading"),
        ("corpus.splits={calibration: train, holdout: test}", "'holdout'"),
        ("allocations=[TOP-0]", "1 <= p <= 100"),
        ("allocations=[NOSUCH]", "'NOSUCH'"),
        ("allocations=[{name: none, layers: []}]", "must have a site"),
        ("allocations=[{name: twice, sites: [0.down_proj, 0.down_proj]}]", "twice"),
        ("allocations=[{name: far, layers: [9]}]", "a layer must be in 0..1"),
        ("sparsity=[1.0]", "less than 1"),
        ("sparsity=[-0.1]", "greater than or equal to 0"),
        ("corpus.block_size=5000", "at least one block of 5000 tokens"),
        ("corpus.files={calibration: [/nosuch.txt], test: [/nosuch2.txt]}", "/nosuch.txt"),
        ("corpus.text_column=body", "text_column must be one of text"),
        ("model.source=/nosuch/model", "/nosuch/model"),
        ("plan={modules: all, levels: fisher, bounds: [0.7, 0.9]}", "within plan.bounds, but got sparsity 0.6"),
        ("plan.modules=[o_proj]", "allow_unsparsified_biases"),
        ("plan.levels={5.down_proj: 0.5}", "a level must name a site of the plan, but got 5.down_proj"),
        (
            "search={masks: {family: exactly_k, k: 9}}",
            "k must be in 0..2 layers for this model, but got 9 (at search.masks.k)",
        ),
    ],
)
def test_a_wrong_space_is_refused(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    space = write_space(tiny_raw, tmp_path)
    storage = tmp_path / "runs"
    assert says in refusal(capsys, "run", space, "--storage", storage, "--set", override)
    assert not (storage / "tiny").exists()


def test_levels_of_a_uniform_space_are_refused(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "levels", write_space(tiny_raw, tmp_path), "--storage", tmp_path)
    assert "levels to find must be fisher or greedy" in line


def test_a_model_of_another_layout_is_refused(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_llama(tmp_path / "odd")
    config = source / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 0'))
    space = write_space(tiny_raw | {"model": {"source": str(source)}}, tmp_path)
    assert "Llama layout" in refusal(capsys, "plan", space)


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_and_not_waited_for(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write_space(tiny_raw, tmp_path)
    line = refusal(capsys, "run", space, "--storage", tmp_path / "runs", "--set", "resources.gpus_per_trial=1")
    assert "GPU 1" in line


def test_an_output_that_cannot_be_written_is_refused(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file where the directory should be")
    line = refusal(capsys, "run", write_space(tiny_raw, tmp_path), "--storage", tmp_path / "runs")
    assert "must be writable" in line


def test_a_sweep_or_a_space_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "space.json").write_text("{}")
    assert "there are: other" in refusal(capsys, "board", "nosuch", "--storage", tmp_path)
    assert "No such file" in refusal(capsys, "plan", tmp_path / "nosuch.yaml")


def test_a_storage_that_is_no_bucket_is_refused(tiny_raw: dict[str, object], tmp_path: Path) -> None:
    space = str(write_space(tiny_raw, tmp_path))
    with pytest.raises(SponError, match=r"a storage must be a directory, s3://.* but got ftp://host/runs"):
        command_line().parse_args(["run", space, "--storage", "ftp://host/runs"])


def test_a_fault_of_the_program_is_no_trial_that_failed_and_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweep.store.folder.open_sweep", lambda *arguments: 1 / 0)
    assert main(["status", "tiny", "--storage", str(tmp_path)]) == 3
    *traceback, line = capsys.readouterr().err.strip().splitlines()
    assert "internal error, not bad input: ZeroDivisionError" in line
    assert "Traceback" in traceback[0]


_STOPPED_IN_A_DESTRUCTOR = """
import os, signal, sys, time
from sweep import cli

class Thing:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def list_sweeps(options):
    Thing()
    time.sleep(60)

cli._ls = list_sweeps
sys.exit(cli.main(["ls"]))
"""


def test_ctrl_c_works_where_python_drops_exceptions() -> None:
    ran = subprocess.run([sys.executable, "-c", _STOPPED_IN_A_DESTRUCTOR], capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stderr) == (130, "stopped\n")


def test_a_cluster_is_found_by_rays_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert command_line().parse_args(["resume", "tiny"]).address == "head:6379"
    assert command_line().parse_args(["resume", "tiny", "--address", "other:1"]).address == "other:1"


def test_sync_beside_a_driver_is_refused_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "space.json").write_text("{}")
    with driving(tmp_path / "tiny"):
        assert "another driver holds this sweep: process" in refusal(capsys, "sync", "tiny", "--storage", tmp_path)


def test_a_password_on_the_command_line_is_refused(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, url = write_space(tiny_raw, tmp_path), "postgresql://me:planted@db/optuna"
    for option in ("--optuna-storage", "--mlflow-uri"):
        line = refusal(capsys, "run", space, "--storage", tmp_path / "runs", option, url)
        assert line.endswith(f"(at {option})")
        assert "planted" not in line
