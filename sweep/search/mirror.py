"""A search's study in a database, for others to look at: copied from its journal, beside the search.

The search itself asks and tells only the journal in its folder, so that a database that is slow or away stops nothing.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search_spaces.errors import SponError
from sweep.display import say
from sweep.search.mask_search import open_journal
from trainables.tracking import SWEEP_TAG, refuse_password

_NUMBER = "spon.number"
"""Attribute of a copied trial: its number in the journal, by which it is known there already."""
_PASS_SECONDS = 5.0
_LAST_SECONDS = 10.0


def check_database(url: str) -> None:
    """Refuse, without connecting, an address that is none, has no driver here, or holds a password.

    Raises:
        SponError: if it is one.
    """
    refuse_password(url, "--optuna-storage")
    try:
        create_engine(url)
    except (ArgumentError, ImportError) as error:
        raise SponError(f"a database must have an address and a driver, but {error} (at --optuna-storage)") from error


class _Taken(Exception):  # noqa: N818 - said like a database that does not answer
    """A study of the same name in the database is not this sweep's."""


class Mirror:
    """Copies the trials that have ended, each once.

    Args:
        journal: file of the studies, in the sweep's folder.
        url: of the database.
    """

    def __init__(self, journal: Path, url: str) -> None:
        self._journal, self._url = journal.resolve(), url
        self._theirs: dict[str, tuple[optuna.Study, set[int]]] = {}
        self._warned = False

    @contextmanager
    def following(self) -> Iterator[None]:
        """Copy every few seconds during a block, in a thread, and what is left at its end, for some seconds."""
        over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(over,), name="optuna", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_LAST_SECONDS)
            if thread.is_alive():
                say("Optuna's database is slow; `sweep sync` sends what it does not have")

    def _follow(self, over: threading.Event) -> None:
        while not over.wait(_PASS_SECONDS):
            self.copy()
        self.copy()

    def copy(self) -> bool:
        """Copy what the database does not have; False if that was not possible, which is said the first time."""
        try:
            if self._journal.exists():
                self._copy()
        except (SQLAlchemyError, StorageInternalError, _Taken) as error:
            self._theirs = {}  # what it has is looked up again: an answer may have been lost
            if not self._warned:
                reason = str(error.__cause__ or error).splitlines()[0]
                say(f"the study is not in Optuna's database, and kept for `sweep sync`: {reason}")
            self._warned = True
            return False
        return True

    def _copy(self) -> None:
        for name in optuna.study.get_all_study_names(self._ours):
            study = optuna.load_study(study_name=name, storage=self._ours)
            if name not in self._theirs:
                self._theirs[name] = self._open(study)
            theirs, there = self._theirs[name]
            for trial in study.get_trials(deepcopy=False):
                if trial.state.is_finished() and trial.number not in there:
                    theirs.add_trial(_numbered(trial))
                    there.add(trial.number)

    @cached_property
    def _ours(self) -> BaseStorage:
        return open_journal(self._journal)

    def _open(self, ours: optuna.Study) -> tuple[optuna.Study, set[int]]:
        """The study in the database, made if it is not there, and the numbers of the trials that it has."""
        storage, name = RDBStorage(self._url), ours.study_name
        theirs = optuna.create_study(storage=storage, study_name=name, directions=ours.directions, load_if_exists=True)
        copied, sweep = theirs.get_trials(deepcopy=False), str(self._journal.parent)
        owner: Any = theirs.user_attrs.get(SWEEP_TAG, "another program" if copied else sweep)
        if owner != sweep:
            raise _Taken(f"{name} there is a study of {owner}")
        theirs.set_user_attr(SWEEP_TAG, sweep)
        return theirs, {trial.user_attrs[_NUMBER] for trial in copied}


def _numbered(trial: FrozenTrial) -> FrozenTrial:
    copied = copy.deepcopy(trial)
    copied.set_user_attr(_NUMBER, trial.number)
    return copied
