"""The driver's events, without Ray."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from search_spaces.load import parse_space
from search_spaces.schema import TrialConfig
from sweep.callback import SweepCallback
from sweep.folder import SweepFolder, create_sweep


@pytest.fixture
def folder(tmp_path: Path, tiny_raw: dict[str, object]) -> SweepFolder:
    return create_sweep(tmp_path, parse_space(tiny_raw, "test"))


@pytest.fixture
def callback(folder: SweepFolder, tmp_path: Path) -> SweepCallback:
    callback = SweepCallback(folder, f"sqlite:///{tmp_path / 'mlflow.db'}")
    callback.setup()
    return callback


@pytest.fixture
def broken(tiny_trial: TrialConfig, tmp_path: Path) -> SimpleNamespace:
    """What Ray says of a trial with an error."""
    (tmp_path / "error.txt").write_text("Traceback\nKeyError: 'threads'\n")
    config = {"trial": tiny_trial.model_dump(mode="json")}
    return SimpleNamespace(config=config, error_file=str(tmp_path / "error.txt"), is_finished=lambda: False)


def test_a_trial_whose_worker_could_not_be_set_up_is_kept_as_failed(
    callback: SweepCallback, folder: SweepFolder, tiny_trial: TrialConfig, broken: SimpleNamespace
) -> None:
    callback.on_trial_error(0, [], broken)
    (kept,) = folder.trials
    assert (kept.config, kept.state, kept.failure) == (tiny_trial, "failed", "KeyError: 'threads'")
    failed, *trace = kept.log_path.read_text().splitlines()
    assert failed.endswith(f"FAILED {tiny_trial.name}  KeyError: 'threads'")
    assert trace == ["Traceback", "KeyError: 'threads'"]


def test_a_trial_that_lost_its_worker_before_it_had_started_is_on_record(
    callback: SweepCallback, folder: SweepFolder, broken: SimpleNamespace
) -> None:
    callback.on_trial_recover(0, [], broken)
    (kept,) = folder.trials
    assert kept.state == "running"
    assert kept.log_path.read_text().endswith("it will go on from its last validation: KeyError: 'threads'\n")


def test_a_sweep_that_goes_on_counts_what_was_over_before(
    folder: SweepFolder,
    broken: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sweep.progress._BEAT_SECONDS", -1.0)
    callback = SweepCallback(folder, f"sqlite:///{tmp_path / 'mlflow.db'}", n_before=3)
    callback.setup()
    callback.on_step_end(0, [broken])
    assert "3 of 4 trials over" in capsys.readouterr().out
