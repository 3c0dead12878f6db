import time

import pytest

from search_spaces.load import parse_space
from search_spaces.schema import TrialConfig
from sweep.progress import Progress
from sweep.search.task import Counts


@pytest.fixture
def progress(tiny_raw: dict[str, object]) -> Progress:
    return Progress(parse_space(tiny_raw, "test"))


def validation(step: float) -> dict[str, float]:
    return {"step": step, "val_kl_nats": 0.5, "val_kl_recovered": 0.1, "val_ppl": 20.0}


def test_each_event_is_one_line(
    progress: Progress, tiny_trial: TrialConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.started(tiny_trial)
    progress.validated(tiny_trial, validation(4))
    progress.known(tiny_trial, validation(4))
    progress.lost(tiny_trial, "its node is gone")
    progress.finished(tiny_trial)
    progress.failed(tiny_trial, "because")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["start", "valid", "again", "lost", "done", "FAILED"]
    assert "step 4/8" in lines[1]
    assert "KL 0.5000 nats (+10.0% recovered)" in lines[1]


def test_a_quiet_time_is_broken_by_a_sign_of_life_with_an_estimate(
    progress: Progress,
    tiny_trial: TrialConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress.validated(tiny_trial, validation(4))
    assert not progress.is_due
    monkeypatch.setattr("sweep.progress._BEAT_SECONDS", -1.0)
    assert progress.is_due
    capsys.readouterr()
    progress.beat(0, 2)
    assert "0 of 2 trials over, 1 running, about" in capsys.readouterr().out


def test_a_search_says_its_best_so_far_and_what_cost_nothing(
    progress: Progress, tiny_trial: TrialConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    proposals = Counts(new=3, open=1, repeated=2)
    progress.validated(tiny_trial, validation(8))
    progress.beat(1, 5, proposals)
    progress.finished(tiny_trial)
    progress.beat(2, 5, proposals)
    before, _, after = capsys.readouterr().out.splitlines()[1:]
    assert "1 of 5 trials over, 1 running; 2 known and not run" in before
    assert (
        f"2 of 5 trials over, workers are being set up, best KL 0.50000 nats ({tiny_trial.name}); 2 known and not run"
        in after
    )


def test_the_estimate_leaves_out_what_an_earlier_process_did(
    progress: Progress, tiny_trial: TrialConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    progress.validated(tiny_trial, validation(8))
    progress.finished(tiny_trial)
    monkeypatch.setattr("time.monotonic", lambda: begun + 600)
    progress.beat(9, 10)  # eight were over before
    assert "about 10 min left" in capsys.readouterr().out
