"""MLflow on SQLite, without Ray: what is sent, once, and what an MLflow that is away does."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests import HTTPError

from search_spaces.load import parse_space
from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, TrialFolder, create_sweep
from sweep.store.tracking import Tracker, trial_params
from tests.conftest import trials_of
from tests.swept import tracking_in
from trainables.tracking import EXPERIMENT


@pytest.fixture
def folder(tmp_path: Path, tiny_raw: dict[str, object]) -> SweepFolder:
    return create_sweep(tmp_path, parse_space(tiny_raw, "test"))


@pytest.fixture
def trial(folder: SweepFolder, tiny_trial: TrialConfig) -> TrialFolder:
    trial = folder.trial(tiny_trial)
    trial.start(tiny_trial)
    trial.add_progress({"step": 4.0, "val_kl_nats": 0.5})
    return trial


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return tracking_in(tmp_path)


def runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))


def child(uri: str) -> Run:
    """The run of the one trial."""
    (found,) = [run for run in runs(uri) if "mlflow.parentRunId" in run.data.tags]
    return found


def history(uri: str) -> list[tuple[int, float]]:
    """The validations that MLflow has of it."""
    found = MlflowClient(uri).get_metric_history(child(uri).info.run_id, "val_kl_nats")
    return sorted((metric.step, metric.value) for metric in found)


def test_a_trial_is_sent_once_however_often_it_is_synced_and_then_only_what_is_new(
    folder: SweepFolder, trial: TrialFolder, tiny_trial: TrialConfig, uri: str
) -> None:
    tracker = Tracker(uri, folder)
    assert all([tracker.sync(trial), tracker.sync(trial), Tracker(uri, folder).sync(trial)])
    trial.add_progress({"step": 8.0, "val_kl_nats": 0.25})
    tracker.sync(trial)
    assert history(uri) == [(4, 0.5), (8, 0.25)]
    labels = {key: value for key, value in child(uri).data.tags.items() if key.startswith("spon.")}
    assert labels == {
        "spon.trial": tiny_trial.identity,
        "spon.allocation": "UNIF-ALL",
        "spon.plan": tiny_trial.plan_label,
    }


@pytest.mark.parametrize("lost", [["trial"], ["trial", "parent"]], ids="+".join)
def test_a_run_is_found_again_by_its_tags_when_the_note_of_it_is_lost(
    folder: SweepFolder, trial: TrialFolder, uri: str, lost: list[str]
) -> None:
    Tracker(uri, folder).sync(trial)
    notes = {"trial": trial.path / "mlflow.json", "parent": folder.path / "parent.json"}
    for which in lost:
        notes[which].unlink()
    Tracker(uri, folder).sync(trial)
    assert len(runs(uri)) == 2


def test_a_sweep_is_sent_whole_to_an_mlflow_that_does_not_have_it(
    folder: SweepFolder, trial: TrialFolder, uri: str, tmp_path: Path
) -> None:
    Tracker(uri, folder).sync(trial)
    (tmp_path / "other").mkdir()
    other = tracking_in(tmp_path / "other")
    assert Tracker(other, folder).sync(trial)
    assert len(runs(other)) == len(runs(uri)) == 2
    assert Tracker(uri, folder).sync(trial)
    assert len(runs(uri)) == 2


def test_a_run_is_found_again_when_the_answer_to_its_making_was_lost(
    folder: SweepFolder, trial: TrialFolder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(uri, folder)
    create = MlflowClient.create_run

    def create_and_leave(client: MlflowClient, *arguments: object, run_name: str, **keywords: object) -> Run:
        run = create(client, *arguments, run_name=run_name, **keywords)
        if run_name == folder.name:
            return run
        raise MlflowException("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", create_and_leave)
        assert not tracker.sync(trial)
    assert tracker.sync(trial)
    assert len(runs(uri)) == 2


def test_metrics_whose_answer_was_lost_are_not_there_twice(
    folder: SweepFolder, trial: TrialFolder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MlflowClient.log_batch

    def log_and_leave(client: MlflowClient, run: str, **what: list[object]) -> None:
        log(client, run, **what)
        if what.get("metrics"):
            raise MlflowException("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", log_and_leave)
        assert not Tracker(uri, folder).sync(trial)
    trial.add_progress({"step": 8.0, "val_kl_nats": 0.25})
    assert Tracker(uri, folder).sync(trial)
    assert history(uri) == [(4, 0.5), (8, 0.25)]


def test_a_new_sweep_looks_for_its_parent_run_only(
    folder: SweepFolder, trial: TrialFolder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = []
    search = MlflowClient.search_runs

    def searched(client: MlflowClient, experiments: list[str], condition: str, **keywords: object) -> object:
        conditions.append(condition)
        return search(client, experiments, condition, **keywords)

    monkeypatch.setattr(MlflowClient, "search_runs", searched)
    assert Tracker(uri, folder).sync(trial)
    assert ["spon.sweep" in condition for condition in conditions] == [True]


def test_validations_that_wait_go_in_as_few_calls_as_mlflow_takes(
    folder: SweepFolder, trial: TrialFolder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    log = MlflowClient.log_batch

    def counted(client: MlflowClient, run: str, **what: list[object]) -> None:
        calls.append(len(what.get("metrics", [])))
        log(client, run, **what)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    trial.add_progress(*({"step": float(step), "val_kl_nats": 1 / step} for step in range(5, 605)))
    Tracker(uri, folder).sync(trial)
    assert [count for count in calls if count] == [1000, 202]
    assert history(uri)[-2:] == [(603, 1 / 603), (604, 1 / 604)]
    assert child(uri).data.metrics["val_kl_nats"] == 1 / 604


def test_a_failed_trial_is_a_failed_run_with_its_reason(folder: SweepFolder, trial: TrialFolder, uri: str) -> None:
    trial.fail("the loss must stay finite")
    Tracker(uri, folder).sync_all()
    assert child(uri).info.status == "FAILED"
    assert child(uri).data.tags["failure"] == "the loss must stay finite"


def test_an_mlflow_that_is_away_stops_nothing_and_gets_it_all_later(
    folder: SweepFolder,
    trial: TrialFolder,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def away(*arguments: object, **keywords: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        tracker = Tracker(uri, folder)
        assert not tracker.sync(trial)
        assert not tracker.sync_all()
    assert capsys.readouterr().out.count("MLflow does not answer") == 1
    assert Tracker(uri, folder).sync_all()
    assert {run.info.status for run in runs(uri)} == {"KILLED"}  # no driver is there


def test_what_runs_is_marked_when_the_driver_stops_and_when_another_goes_on(
    folder: SweepFolder, trial: TrialFolder, uri: str
) -> None:
    Tracker(uri, folder).sync(trial)
    Tracker(uri, folder).stop()
    assert [run.info.status for run in runs(uri)] == ["KILLED", "KILLED"]
    later = Tracker(uri, folder)
    trial.add_progress({"step": 8.0, "val_kl_nats": 0.4})
    later.sync(trial)
    assert [run.info.status for run in runs(uri)] == ["RUNNING", "RUNNING"]


@pytest.mark.parametrize(
    "fault",
    [MlflowException("gone"), HTTPError("502 Bad Gateway"), OSError("reset by peer"), KeyError("of a cloud's library")],
    ids=str,
)
def test_an_mlflow_that_dies_while_the_board_is_sent_stops_nothing_and_it_says_so(
    folder: SweepFolder,
    trial: TrialFolder,
    uri: str,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dies(*arguments: object) -> None:
        raise fault

    (folder.path / "board.txt").write_text("board")
    monkeypatch.setattr(MlflowClient, "log_artifact", dies)
    assert not Tracker(uri, folder).sync_all()
    assert f"MLflow does not answer; results are kept in {folder.path} for `sweep sync`: {fault}" in (
        capsys.readouterr().out
    )


def test_params_say_where_the_biases_are(tiny_raw: dict[str, object]) -> None:
    late = trials_of(tiny_raw | {"allocations": ["BOTTOM-50"]})[0]
    params = trial_params(late)
    assert (params["layer_00"], params["layer_01"]) == (0, 1)
    assert (params["n_spon_layers"], params["modules"]) == (1, "down_proj")
