"""The driver's events, without Ray."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from search_spaces.load import parse_space
from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, create_sweep
from sweep.terminal.display import Display
from sweep.tune.callback import SweepCallback
from sweep.tune.nodes import Nodes
from sweep.tune.progress import Progress
from tests.swept import tracking_in
from trainables.workbench import find_materials


@pytest.fixture
def folder(tmp_path: Path, tiny_raw: dict[str, object]) -> SweepFolder:
    return create_sweep(tmp_path, parse_space(tiny_raw, "test"))


@pytest.fixture
def shape(folder: SweepFolder) -> ModelShape:
    return find_materials(folder.space.model, folder.space.corpus).shape


@pytest.fixture
def callback(folder: SweepFolder, shape: ModelShape, tmp_path: Path) -> SweepCallback:
    uri, nodes = tracking_in(tmp_path), Nodes(folder.space.resources)
    callback = SweepCallback(folder, Progress(shape, []), uri, nodes)
    callback.setup()
    return callback


@pytest.fixture
def broken(tiny_trial: TrialConfig, tmp_path: Path) -> SimpleNamespace:
    """What Ray says of a trial with an error."""
    (tmp_path / "error.txt").write_text("Traceback\nKeyError: 'threads'\n")
    config = {"name": tiny_trial.name, "trial": tiny_trial.model_dump(mode="json")}
    nothing_more = {"is_finished": lambda: False, "pickled_error_file": None}
    return SimpleNamespace(config=config, error_file=str(tmp_path / "error.txt"), **nothing_more)


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
    assert kept.log_path.read_text().endswith("it will resume from its last validation: KeyError: 'threads'\n")


def test_a_sweep_that_goes_on_counts_what_was_over_before(
    folder: SweepFolder, shape: ModelShape, tiny_trial: TrialConfig, tmp_path: Path
) -> None:
    with Display(io.StringIO()) as display:
        uri, nodes = tracking_in(tmp_path), Nodes(folder.space.resources)
        callback = SweepCallback(folder, Progress(shape, [tiny_trial], n_before=3), uri, nodes)
        callback.setup()
        assert display.view().text == "3 of 4 trials done; workers are starting"
        callback.on_experiment_end([])
        assert display.view().text == "sending results to MLflow"
