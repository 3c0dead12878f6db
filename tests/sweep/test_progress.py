import pytest

from search_spaces.load import parse_space
from search_spaces.schema import TrialConfig
from sweep.progress import Progress


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
    progress.finished(tiny_trial)
    progress.failed(tiny_trial, "because")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["start", "valid", "done", "FAILED"]
    assert "step 4/8" in lines[1]
    assert "KL 0.5000 nats (+10.0% recovered)" in lines[1]


def test_a_quiet_time_is_broken_by_a_sign_of_life_with_an_estimate(
    progress: Progress,
    tiny_trial: TrialConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress.validated(tiny_trial, validation(4))
    capsys.readouterr()
    progress.beat(2)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sweep.progress._BEAT_SECONDS", -1.0)
    progress.beat(2)
    assert "0 of 2 trials over, 1 running, about" in capsys.readouterr().out
