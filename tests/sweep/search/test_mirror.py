"""A study's copy in a database: SQLite stands for a server."""

from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from search_spaces.errors import SponError
from sweep.search import mirror
from sweep.search.mask_search import open_journal
from sweep.search.mirror import Mirror, check_database


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


def test_what_has_ended_is_copied_once_as_it_is(journal: Path, server: str) -> None:
    one = Mirror(journal, server)
    for again in (one, one, Mirror(journal, server)):
        assert again.copy()
    complete, pruned = optuna.load_study(study_name="tiny", storage=server).get_trials()
    assert (complete.value, complete.params, complete.intermediate_values) == (0.5, {"x": 0.0}, {1: 0.0})
    assert (pruned.state, pruned.params) == (TrialState.PRUNED, {"x": 1.0})


def test_what_ends_later_is_copied_by_the_end_of_the_block(journal: Path, server: str) -> None:
    with Mirror(journal, server).following():
        optuna.load_study(study_name="tiny", storage=open_journal(journal)).tell(2, 0.1)
    assert states(server) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]


def test_a_database_that_is_away_is_said_once_and_gets_all_when_it_is_back(
    journal: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Mirror(journal, database)
    assert [away.copy(), away.copy()] == [False, False]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the study is not in Optuna's database, and kept for `sweep sync`: ")
    Path(database.removeprefix("sqlite:///")).parent.mkdir()
    assert away.copy()
    assert states(database) == [TrialState.COMPLETE, TrialState.PRUNED]


def test_a_trial_whose_answer_was_lost_is_not_copied_twice(
    journal: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = optuna.Study.add_trial

    def lost(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        add(study, trial)
        raise StorageInternalError("the connection was closed")

    one = Mirror(journal, server)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", lost)
        assert not one.copy()
    assert one.copy()
    assert states(server) == [TrialState.COMPLETE, TrialState.PRUNED]


def test_a_study_of_the_same_name_is_left_alone(
    journal: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="tiny", storage=server).add_trial(optuna.create_trial(value=1.0))
    assert not Mirror(journal, server).copy()
    assert "tiny there is a study of another program" in capsys.readouterr().out
    assert states(server) == [TrialState.COMPLETE]


def test_a_study_of_another_sweep_is_left_alone(journal: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Mirror(journal, server).copy()
    other = journal.parent.with_name("other") / journal.name
    other.parent.mkdir()
    optuna.create_study(study_name="tiny", storage=open_journal(other))
    assert not Mirror(other, server).copy()
    assert f"tiny there is a study of {journal.parent}" in capsys.readouterr().out


def test_a_sweep_without_a_study_has_nothing_to_copy(tmp_path: Path, server: str) -> None:
    assert Mirror(tmp_path / "optuna.log", server).copy()
    assert not (tmp_path / "optuna.log").exists()


def test_a_slow_database_does_not_hold_the_search(
    journal: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirror, "_LAST_SECONDS", 0.0)
    with Mirror(journal, server).following():
        pass
    assert "`sweep sync` sends what it does not have" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["runs/optuna.log", "nosuch://db/optuna", "oracle://db/optuna"])
def test_an_address_that_no_database_has_or_no_driver_here_is_refused(url: str) -> None:
    with pytest.raises(SponError, match=r"must have an address and a driver, but .* \(at --optuna-storage\)$"):
        check_database(url)


def test_an_address_of_a_database_that_is_away_is_not_refused(database: str) -> None:
    check_database(database)
