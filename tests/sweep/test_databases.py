"""A cluster's shared services as they are: Optuna's study and MLflow's server on PostgreSQL, and a server that dies."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sweep.folder import SweepFolder
from tests.services import PASSWORD, free_port, mlflow_server, postgres, postgres_programs
from tests.swept import run, write_space

pytestmark = pytest.mark.ray


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start of the URLs of two databases, whose password is in the environment."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server, or no psycopg")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # for a busy machine
    with postgres(programs, "optuna", "mlflow") as start:
        yield start


def runs_by_name(uri: str) -> dict[str, str]:
    """Status of each run; no two may have a name."""
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("spon-sweep").experiment_id])
    names = [one.info.run_name for one in found]
    assert len(names) == len(set(names))
    return {one.info.run_name: one.info.status for one in found}


def test_a_search_by_two_workers_through_postgresql(
    tiny_space: dict[str, object], tmp_path: Path, databases: str
) -> None:
    search = {"masks": {"family": "layer_module_bits", "modules": ["o_proj", "down_proj"]}, "n_masks": 3}
    changes = {"plan": {"rule": "topk", "modules": ["o_proj", "down_proj"]}, "resources": {"max_concurrent": 2}}
    raw = tiny_space | changes | {"search": search | {"confirm": {"seeds": [1], "n_random": 1}}}
    port, storage, artifacts = free_port(), tmp_path / "runs", tmp_path / "artifacts"
    artifacts.mkdir()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(databases + "mlflow", artifacts, port):
        where = ("--optuna-storage", databases + "optuna", "--mlflow-uri", uri, "--storage", storage)
        ran = run("search", write_space(raw, tmp_path), *where, timeout=600)
        assert ran.code == 0, ran.out + ran.err
        trials = {trial.path.name for trial in SweepFolder(storage / "tiny").trials}
        assert runs_by_name(uri) == dict.fromkeys({"tiny", *trials}, "FINISHED")
    study = optuna.load_study(study_name="tiny", storage=databases + "optuna")
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) >= 3
    assert not study.get_trials(states=(TrialState.RUNNING,))
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(PASSWORD.encode() in text for text in (ran.out.encode(), ran.err.encode(), *files))
