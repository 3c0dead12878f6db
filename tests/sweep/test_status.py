"""Figures of a fabricated folder, by hand: 5 trials planned of 8 steps each, one of none."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.load import parse_space
from sweep.cli import main
from sweep.status import as_lines, status_of
from sweep.store.folder import SweepFolder, TrialFolder, create_sweep
from sweep.store.lock import driving
from sweep.terminal.display import ACTIVITY
from tests.conftest import trials_of
from tests.swept import Swept

NAMES = ["BASELINE-TEAL", "UNIF-ALL", "TOP-50", "BOTTOM-50", "ATTN-ONLY"]


def validate(trial: TrialFolder, step: int, seconds: float) -> None:
    trial.add_progress({"step": step, "val_kl_nats": 1 / (1 + step), "seconds": seconds})


@pytest.fixture
def folder(tmp_path: Path, tiny_raw: dict[str, object]) -> Iterator[SweepFolder]:
    """TEAL alone and UNIF-ALL are done, TOP-50 has failed, BOTTOM-50 is half-way, ATTN-ONLY waits."""
    raw = tiny_raw | {"allocations": NAMES, "resources": {"price_per_hour": 3.6, "max_concurrent": 2}}
    sweep = create_sweep(tmp_path, parse_space(raw, "test"))
    trials = trials_of(raw)
    sweep.plan({trial.name: 8 if trial.sites else 0 for trial in trials})
    teal, unif, top, bottom, _ = (sweep.trial(trial) for trial in trials)
    for begun, config in zip((teal, unif, top, bottom), trials, strict=False):
        begun.start(config)
    validate(teal, 0, 2.0)
    validate(unif, 4, 10.0)
    validate(unif, 8, 10.0)
    validate(bottom, 4, 20.0)
    for trial in (teal, unif):
        trial.checkpoint_path.mkdir()
        (trial.checkpoint_path / "meta.json").touch()
    top.fail("the loss must stay finite")
    with driving(sweep.path):
        yield sweep


def test_states_speed_and_what_is_left_are_of_trials_that_train(folder: SweepFolder) -> None:
    status = status_of(folder)
    assert status.states == {"finished": 2, "failed": 1, "running": 1, "waiting": 1}
    assert status.steps_per_second == 12 / 40
    assert (status.steps_left, status.seconds_left, status.seconds) == (4 + 8, pytest.approx(40), 42)


def test_the_lines_say_it_all(folder: SweepFolder) -> None:
    whole, driver, failed, running, speed, left, cost = sorted(as_lines(status_of(folder)), key=_place)
    assert whole.startswith("tiny: 5 trials: 2 finished, 1 failed, 1 running, 1 waiting; last sign of life ")
    assert driver.startswith(f"driver: process {os.getpid()} on ")
    assert failed.startswith("  FAILED   TOP-50_")
    assert failed.endswith("the loss must stay finite")
    assert running.startswith("  running  BOTTOM-50_")
    assert running.endswith("step 4/8  KL 0.2000 nats")
    assert speed == "speed: 0.3 steps/s a trial, 180 trials/h, 1 at once"
    assert left == "left: about 40 s; 0.01 h of trials, after 0.01 h"
    assert cost == "cost left: about 0.04, after 0.04 (at 3.6 an hour a trial)"


def _place(line: str) -> int:
    return [line.startswith(start) for start in ("tiny", "driver", "  F", "  r", "speed", "left", "cost")].index(True)


def test_a_sweep_that_has_only_begun_has_no_speed(tmp_path: Path, tiny_raw: dict[str, object]) -> None:
    sweep = create_sweep(tmp_path, parse_space(tiny_raw, "test"))
    sweep.plan({trial.name: 8 for trial in trials_of(tiny_raw)})
    assert as_lines(status_of(sweep)) == [
        "tiny: 1 trials: 1 waiting",
        "no driver; resume with: python -m sweep resume tiny",
        "speed and time left: not known before the first validation of a trial that trains",
    ]


def test_without_a_driver_nothing_runs(folder: SweepFolder) -> None:
    lost = replace(status_of(folder), driver=None, gpus_per_trial=0.25)
    lines = as_lines(lost)
    assert "1 interrupted" in lines[0]
    assert lines[1] == "no driver; resume with: python -m sweep resume tiny"
    assert not any("running" in line for line in lines)


def test_programs_get_the_same_as_json(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tiny", "--storage", str(folder.path.parent), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], len(said["trials"]), said["max_concurrent"]) == ("tiny", 4, 2)


def test_the_sweeps_of_a_storage_are_a_line_each(
    folder: SweepFolder, tiny_raw: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", "--storage", str(folder.path)]) == 0
    assert capsys.readouterr().out == f"no sweeps in {folder.path}\n"
    create_sweep(folder.path.parent, parse_space(tiny_raw | {"name": "another"}, "test"))
    assert main(["ls", "--storage", str(folder.path.parent)]) == 0
    another, tiny = capsys.readouterr().out.splitlines()
    assert another == "another: 0 trials: none yet"
    assert tiny.startswith("tiny: 5 trials: 2 finished, 1 failed, 1 running, 1 waiting; last sign of life ")


def test_trials_that_may_begin_at_once_share_the_time(folder: SweepFolder) -> None:
    status = status_of(folder)
    assert status.at_once == 1
    assert replace(status, trials=(), waiting={"a": 8, "b": 8, "c": 8}).at_once == 2  # max_concurrent


def test_lines_without_a_price_with_gpus_and_of_a_search(folder: SweepFolder) -> None:
    status = status_of(folder)
    assert not any("GPU" in line for line in as_lines(status))
    assert not any("cost" in line for line in as_lines(replace(status, price_per_hour=None)))
    held = replace(status, trials=status.trials * 2, gpus_per_trial=0.25)
    assert as_lines(held)[2] == "GPUs: 0.5 held by running trials"
    lines = as_lines(replace(status, search=("search: train", "then: confirm")))
    assert lines[1:3] == ["search: train", "then: confirm"]
    assert "left: about 40 s; 0.01 h of trials known so far, after 0.01 h" in lines


def said(folder: SweepFolder, seconds_ago: float) -> list[str]:
    """The lines when the driver wrote this so long ago."""
    view = {
        "text": "2 of 5 trials done",
        "left": "about 9 min left",
        "workers": [["BOTTOM-50_s0.60", "training, step 5 of 8"]],
    }
    (folder.path / ACTIVITY).write_text(json.dumps(view | {"at": time.time() - seconds_ago}))
    return as_lines(status_of(folder))


def test_what_the_driver_does_now_is_said_and_when_it_is_old(folder: SweepFolder) -> None:
    before = as_lines(status_of(folder))
    lines = said(folder, 1)
    assert lines[1:3] == ["now: 2 of 5 trials done, about 9 min left", "  BOTTOM-50_s0.60: training, step 5 of 8"]
    assert lines[3:] == before[1:]
    assert lines[0].endswith("; last sign of life 0 s ago")
    assert said(folder, 180)[1] == "now: 2 of 5 trials done, about 9 min left (said 3 min ago)"


@pytest.mark.ray
def test_a_finished_sweep_has_nothing_left(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tiny", "--storage", str(swept.storage)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny: 3 trials: 3 finished; last sign of life ")
    assert "left: about 0 s" in out


def test_the_logs_of_a_sweep_are_in_the_order_of_time(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = folder.trials
    first.log_path.write_text("2026-01-01 10:00:00  start  a\n2026-01-01 10:00:02  FAILED a\nTraceback\n")
    second.log_path.write_text("2026-01-01 10:00:01  start  b\n")
    where = ["--storage", str(folder.path.parent)]
    assert main(["logs", folder.name, *where]) == 0
    assert [line.split()[2:] for line in capsys.readouterr().out.splitlines()] == [
        ["start", "a"],
        ["start", "b"],
        ["FAILED", "a"],
    ]
    assert main(["logs", folder.name, first.path.name, *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Traceback"
    assert main(["logs", folder.name, "nosuch", *where]) == 2
    assert f"a trial must be one of {first.path.name}, " in capsys.readouterr().err


def test_a_sweep_that_is_driven_is_watched_to_its_end(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = iter(["process 1", "process 1", None])
    monkeypatch.setattr("sweep.status.driver_of", lambda path: next(drivers))
    monkeypatch.setattr("sweep.cli._WATCH_SECONDS", 0.0)
    assert main(["status", folder.name, "--watch", "--storage", str(folder.path.parent)]) == 0
    assert capsys.readouterr().out.count("driver: process 1") == 2
