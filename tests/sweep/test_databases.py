"""A cluster's shared services as they are: Optuna's study and MLflow's server on PostgreSQL, and a server that dies."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sweep.store.folder import SweepFolder
from tests.services import PASSWORD, free_port, mlflow_server, postgres, postgres_programs
from tests.swept import run, write_space

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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


def small_search(tiny_space: dict[str, object]) -> dict[str, object]:
    search = {"masks": {"family": "layer_module_bits", "modules": ["o_proj", "down_proj"]}, "n_masks": 3}
    changes = {"plan": {"rule": "topk", "modules": ["o_proj", "down_proj"]}, "resources": {"max_concurrent": 2}}
    return tiny_space | changes | {"search": search | {"confirm": {"seeds": [1], "n_random": 1}}}


def completed(url: str) -> int:
    """Trials of the study in a database, of which none may be under way."""
    study = optuna.load_study(study_name="tiny", storage=url)
    assert not study.get_trials(states=(TrialState.RUNNING,))
    return len(study.get_trials(states=(TrialState.COMPLETE,)))


def test_a_search_by_two_workers_through_postgresql(
    tiny_space: dict[str, object], tmp_path: Path, databases: str
) -> None:
    raw = small_search(tiny_space)
    port, storage, artifacts = free_port(), tmp_path / "runs", tmp_path / "artifacts"
    artifacts.mkdir()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(databases + "mlflow", artifacts, port):
        where = ("--optuna-storage", databases + "optuna", "--mlflow-uri", uri, "--storage", storage)
        ran = run("search", write_space(raw, tmp_path), *where, timeout=600)
        assert ran.code == 0, ran.out + ran.err
        trials = {trial.path.name for trial in SweepFolder(storage / "tiny").trials}
        assert runs_by_name(uri) == dict.fromkeys({"tiny", *trials}, "FINISHED")
    assert completed(databases + "optuna") >= 3
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(PASSWORD.encode() in text for text in (ran.out.encode(), ran.err.encode(), *files))


def test_a_study_database_that_is_away_stops_nothing_and_sync_sends_what_it_missed(
    tiny_space: dict[str, object], tmp_path: Path, databases: str
) -> None:
    import psycopg

    where = ("--optuna-storage", databases + "optuna", "--storage", tmp_path)
    with psycopg.connect(databases + "mlflow", autocommit=True) as server:
        server.execute("ALTER DATABASE optuna ALLOW_CONNECTIONS false")
        ran = run("search", write_space(small_search(tiny_space), tmp_path), *where, timeout=600)
        assert ran.code == 0, ran.out + ran.err
        assert ran.out.count("the study did not reach Optuna's database, and is kept for `sweep sync`") == 1
        assert run("sync", "tiny", *where).code == 1
        server.execute("ALTER DATABASE optuna ALLOW_CONNECTIONS true")
    assert run("sync", "tiny", *where).code == 0
    assert completed(databases + "optuna") >= 3
