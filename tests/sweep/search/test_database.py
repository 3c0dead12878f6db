"""A study's copy in a database: SQLite stands for a server."""

from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from search_spaces.errors import SponError
from sweep.search.database import check_database, copy_studies
from sweep.search.mask_search import open_journal
from sweep.store.folder import SweepFolder


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A study of a complete, a pruned and a running trial."""
    file = tmp_path / "sweep" / "optuna.log"
    file.parent.mkdir()
    study = optuna.create_study(study_name="tiny", storage=open_journal(file))
    for i in range(3):
        trial = study.ask()
        trial.suggest_float("x", i, i)
        trial.report(float(i), step=1)
    study.tell(0, 0.5)
    study.tell(1, state=TrialState.PRUNED)
    return file


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'server' / 'optuna.db'}"


@pytest.fixture
def server(database: str) -> str:
    """The database, which is there."""
    Path(database.removeprefix("sqlite:///")).parent.mkdir()
    return database


def states(url: str) -> list[TrialState]:
    return [trial.state for trial in optuna.load_study(study_name="tiny", storage=url).get_trials()]


def test_a_study_is_copied_as_it_is_and_again_as_it_has_become(journal: Path, server: str) -> None:
    assert copy_studies(SweepFolder(journal.parent), server)
    complete, pruned, running = optuna.load_study(study_name="tiny", storage=server).get_trials()
    assert (complete.value, complete.params, complete.intermediate_values) == (0.5, {"x": 0.0}, {1: 0.0})
    assert (pruned.state, pruned.params, running.state) == (TrialState.PRUNED, {"x": 1.0}, TrialState.RUNNING)
    optuna.load_study(study_name="tiny", storage=open_journal(journal)).tell(2, 0.1)
    assert copy_studies(SweepFolder(journal.parent), server)
    assert states(server) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]


def test_a_database_that_is_away_is_said_and_gets_all_when_it_is_back(
    journal: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not copy_studies(SweepFolder(journal.parent), database)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the study did not reach Optuna's database, and is kept for `sweep sync`: ")
    Path(database.removeprefix("sqlite:///")).parent.mkdir()
    assert copy_studies(SweepFolder(journal.parent), database)
    assert len(states(database)) == 3


@pytest.mark.parametrize("lost", ["set_user_attr", "get_trials"])
def test_a_copy_that_was_cut_short_is_made_again(
    journal: Path, server: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """After the study is made and before its owner is written, or after both and before the trials."""
    calls, real = [], getattr(optuna.Study, lost)

    def cut_short(study: optuna.Study, *args: object, **options: object) -> object:
        calls.append(study)
        if len(calls) > 1 or lost == "get_trials":  # the first attribute is set in the journal
            raise StorageInternalError("the connection was closed")
        return real(study, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, lost, cut_short)
        assert not copy_studies(SweepFolder(journal.parent), server)
    assert not states(server)
    assert copy_studies(SweepFolder(journal.parent), server)
    assert len(states(server)) == 3


def test_a_study_of_the_same_name_is_left_alone(journal: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    optuna.create_study(study_name="tiny", storage=server).add_trial(optuna.create_trial(value=1.0))
    assert not copy_studies(SweepFolder(journal.parent), server)
    assert "has one of that name, which belongs to another program" in capsys.readouterr().out
    assert states(server) == [TrialState.COMPLETE]


def test_a_study_of_another_sweep_is_left_alone(journal: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert copy_studies(SweepFolder(journal.parent), server)
    other = journal.parent.with_name("other") / journal.name
    other.parent.mkdir()
    optuna.create_study(study_name="tiny", storage=open_journal(other))
    assert not copy_studies(SweepFolder(other.parent), server)
    assert f"has one of that name, which belongs to {SweepFolder(journal.parent).id}" in capsys.readouterr().out
    assert len(states(server)) == 3


def test_a_sweep_without_a_study_has_nothing_to_copy(tmp_path: Path, server: str) -> None:
    assert copy_studies(SweepFolder(tmp_path), server)
    assert not (tmp_path / "optuna.log").exists()


@pytest.mark.parametrize("url", ["runs/optuna.log", "nosuch://db/optuna", "oracle://db/optuna"])
def test_an_address_that_no_database_has_or_no_driver_here_is_refused(url: str) -> None:
    with pytest.raises(SponError, match=r"must have an address and a driver, but .* \(at --optuna-storage\)$"):
        check_database(url)


def test_an_address_of_a_database_that_is_away_is_not_refused(database: str) -> None:
    check_database(database)
