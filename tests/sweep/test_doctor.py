from pathlib import Path

import pytest

from search_spaces.load import parse_space
from sweep import doctor


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what asks the network."""
    monkeypatch.setattr(doctor, "_hub", lambda: iter(()))


def test_a_wrong_version_is_a_fault_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("torch==0.0.1  # old\nnosuchpackage==1.0\n")
    monkeypatch.setattr(doctor, "_REQUIREMENTS", pins)
    assert doctor.examine() == 1
    out = capsys.readouterr().out
    assert "(want 0.0.1)" in out
    assert "nosuchpackage missing (want 1.0)" in out
    assert "-> pip install -r requirements.txt" in out


def test_a_cache_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    monkeypatch.setenv("SPON_CACHE", str(tmp_path / "cache"))
    assert doctor.examine() == 1
    assert "set SPON_CACHE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("http://127.0.0.1:9", "unset MLFLOW_TRACKING_URI"),
        ("http://user:planted@127.0.0.1:9", "take the password out of MLFLOW_TRACKING_URI"),
    ],
)
def test_an_mlflow_that_does_not_answer_or_whose_address_holds_a_password_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, remedy: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert doctor.examine() == 1
    out = capsys.readouterr().out
    assert remedy in out
    assert "planted" not in out


def test_a_sound_set_up_is_ready_and_the_model_and_the_text_of_a_space_are_looked_for(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.examine(space=parse_space(tiny_raw, "test")) == 0
    out = capsys.readouterr().out
    assert "text files: available" in out
    assert out.splitlines()[-1] == "ready"
    lost = {split: [str(tmp_path / f"{split}.txt")] for split in tiny_raw["corpus"]["files"]}
    raw = tiny_raw | {"model": {"source": "/not/there"}, "corpus": tiny_raw["corpus"] | {"files": lost}}
    assert doctor.examine(space=parse_space(raw, "test")) == 1
    out = capsys.readouterr().out
    assert "FAULT  the model must be a directory here" in out
    assert f"FAULT  text files are missing: {lost['calibration'][0]}, " in out
