"""A search's study in a database, for others to look at: a copy of its journal, made when a stage of proposals ends.

The search itself asks and tells only the journal in its folder, so that a database that is slow or away stops nothing.
"""

from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search_spaces.errors import SponError
from sweep.search.mask_search import open_journal
from sweep.store.folder import SweepFolder
from sweep.terminal.display import say
from trainables.tracking import SWEEP_TAG, refuse_password


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


def copy_studies(folder: SweepFolder, url: str) -> bool:
    """Copy the studies of a sweep in the place of earlier copies; False, which is said, if that was not possible.

    Args:
        folder: of the sweep.
        url: of the database.
    """
    if not folder.journal.exists():
        return True
    ours, sweep = open_journal(folder.journal), folder.id
    try:
        theirs = RDBStorage(url)
        for name in optuna.study.get_all_study_names(ours):
            optuna.load_study(study_name=name, storage=ours).set_user_attr(SWEEP_TAG, sweep)
            if owner := _other_owner(name, theirs, sweep):
                say(f"the study {name} is not copied: the one of that name in Optuna's database is of {owner}")
                return False
            optuna.copy_study(from_study_name=name, from_storage=ours, to_storage=theirs)
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        say(f"the study is not in Optuna's database, and kept for `sweep sync`: {reason}")
        return False
    return True


def _other_owner(name: str, theirs: BaseStorage, sweep: str) -> str | None:
    """Whose the study of a name in the database is; None, and it is removed, if it is a copy of this sweep's."""
    if name not in optuna.study.get_all_study_names(theirs):
        return None
    study = optuna.load_study(study_name=name, storage=theirs)
    # A copy that was cut short before its owner was written has no trials yet
    owner: Any = study.user_attrs.get(SWEEP_TAG, "another program" if study.get_trials(deepcopy=False) else sweep)
    if owner != sweep:
        return str(owner)
    optuna.delete_study(study_name=name, storage=theirs)
    return None
