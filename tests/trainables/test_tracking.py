from pathlib import Path

import pytest

from search_spaces.errors import SponError
from trainables.tracking import refuse_password, tracking_uri


def test_the_environment_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert tracking_uri(None, tmp_path) == "http://elsewhere"


def test_what_is_given_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert tracking_uri("http://here", tmp_path) == "http://here"


def test_a_database_beside_the_results_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:planted@db/optuna",
        "postgresql+psycopg2://me:planted@db:5432/optuna?sslmode=require",
        "https://me:planted@db",
        "postgresql://db/optuna?user=me&password=planted",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_said(uri: str) -> None:
    with pytest.raises(
        SponError, match=r"must hold no password, but that of db does; set PGPASSWORD.*at --x"
    ) as refused:
        refuse_password(uri, "--x")
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("uri", ["postgresql://me@db:5432/optuna", "sqlite:////runs/mlflow.db", "runs/optuna.log"])
def test_an_address_without_a_password_passes(uri: str) -> None:
    refuse_password(uri, "--x")


def test_a_password_in_the_environments_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted@db")
    with pytest.raises(SponError, match="at MLFLOW_TRACKING_URI"):
        tracking_uri(None, tmp_path)
