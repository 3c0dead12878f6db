import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, TrialFolder, check_sweep, create_sweep, open_sweep


@pytest.fixture
def trial(tmp_path: Path, tiny_trial: TrialConfig) -> TrialFolder:
    folder = SweepFolder(tmp_path / "tiny").trial(tiny_trial)
    folder.start(tiny_trial)
    return folder


def test_a_trial_that_started_is_running(trial: TrialFolder, tiny_trial: TrialConfig) -> None:
    assert trial.state == "running"
    assert trial.config == tiny_trial


def test_a_validation_is_recorded_once_however_often_it_is_reported(trial: TrialFolder) -> None:
    for step in (4.0, 8.0, 4.0, 8.0):
        trial.add_progress({"step": step, "val_kl_nats": step})
    assert [metrics["step"] for metrics in trial.progress] == [4.0, 8.0]


@contextlib.contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: what a writer leaves when the disk is full in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_was_full_costs_a_trial_none_of_its_validations(trial: TrialFolder) -> None:
    trial.add_progress({"step": 4.0})
    with full_disk(len('{"step": 4.0}\n{"st')), pytest.raises(OSError, match="too large"):
        trial.add_progress({"step": 8.0})
    trial.add_progress({"step": 8.0})
    assert trial.progress == [{"step": 4.0}, {"step": 8.0}]


def test_a_sweep_taken_up_on_a_full_disk_keeps_its_space(tmp_path: Path, tiny_raw: dict[str, object]) -> None:
    space = parse_space(tiny_raw, "test")
    create_sweep(tmp_path, space)
    with full_disk(10), pytest.raises(SponError, match="must be writable, but File too large"):
        create_sweep(tmp_path, space)
    assert open_sweep(tmp_path, "tiny").space == space


def test_a_failed_trial_keeps_its_reason_and_why_it_failed_when_it_is_tried_again(
    tmp_path: Path, trial: TrialFolder
) -> None:
    trial.fail("no node had a GPU")
    assert (trial.state, trial.failure) == ("failed", "no node had a GPU")
    trial.retry()
    assert trial.state == "running"
    assert "tried again, after: no node had a GPU" in trial.log_path.read_text()
    assert [known.path for known in SweepFolder(tmp_path / "tiny").trials] == [trial.path]


@pytest.mark.parametrize("seeds", [{}, {"seeds": [1, 2]}, {"seeds": [7], "training": {"seed": 7}}])
def test_a_sweep_gives_back_its_space_which_may_come_again(
    tmp_path: Path, tiny_raw: dict[str, object], seeds: dict[str, object]
) -> None:
    space = parse_space(tiny_raw | seeds, "test")
    check_sweep(tmp_path, space)
    assert list(tmp_path.iterdir()) == []  # a check leaves no trace of the name
    create_sweep(tmp_path, space)
    assert open_sweep(tmp_path, "tiny").space.seeds == space.seeds
    check_sweep(tmp_path, space)


def test_a_space_from_before_a_key_was_there_is_the_one_with_its_default(
    tmp_path: Path, tiny_raw: dict[str, object]
) -> None:
    space = parse_space(tiny_raw, "test")
    file = create_sweep(tmp_path, space).path / "space.json"
    raw = json.loads(file.read_text())
    del raw["resources"]["max_minutes"]
    file.write_text(json.dumps(raw))
    check_sweep(tmp_path, space)


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "", "tiny/../tiny", "/"])
def test_a_name_cannot_lead_out_of_the_storage(tmp_path: Path, tiny_raw: dict[str, object], name: str) -> None:
    space = parse_space(tiny_raw, "test")
    create_sweep(tmp_path / "runs", space)
    create_sweep(tmp_path, space.model_copy(update={"name": "elsewhere"}))
    (tmp_path / "space.json").write_text("{}")
    with pytest.raises(SponError, match=r"there are: tiny$"):
        open_sweep(tmp_path / "runs", name)


@pytest.mark.parametrize("name", ["..", "a/../../b", "/etc"])
def test_a_trials_folder_is_under_its_sweep_whatever_its_allocation_is_called(
    tmp_path: Path, tiny_trial: TrialConfig, name: str
) -> None:
    sweep = SweepFolder(tmp_path / "tiny")
    path = sweep.trial(tiny_trial.model_copy(update={"allocation": name})).path
    assert path.resolve().parent == sweep.path / "trials"


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({"resources": {"max_minutes": 5, "max_failures": 9}}, True),
        ({"allocations": ["UNIF-ALL", "TOP-50"]}, True),
        ({"seeds": [42, 43]}, True),
        ({"allocations": ["TOP-50"]}, False),
        ({"seeds": [43]}, False),
        ({"sparsity": [0.6, 0.7]}, False),
        ({"resources": {"gpus_per_trial": 1}}, False),
        ({"training": {"lr": 0.1}}, False),
    ],
)
def test_a_sweep_goes_on_with_other_resources_or_more_trials_and_with_nothing_else(
    tmp_path: Path, tiny_raw: dict[str, object], change: dict[str, object], goes_on: bool
) -> None:
    create_sweep(tmp_path, parse_space(tiny_raw, "test"))
    space = parse_space(tiny_raw | change, "test")
    if goes_on:
        check_sweep(tmp_path, space)
        assert create_sweep(tmp_path, space).space == space
    else:
        with pytest.raises(SponError, match="a sweep's name must stand for one space"):
            check_sweep(tmp_path, space)
