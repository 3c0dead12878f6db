"""Copies a search's study from its journal to a database for others to view, when the stage of proposals ends.

The search itself only uses the journal in its folder, so a slow or unreachable database does not block it.
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
    """Check an address without connecting.

    Raises:
        SponError: if the address is invalid, has no installed driver, or contains a password.
    """
    refuse_password(url, "--optuna-storage")
    try:
        create_engine(url)
    except (ArgumentError, ImportError) as error:
        raise SponError(f"a database must have an address and a driver, but {error} (at --optuna-storage)") from error


def copy_studies(folder: SweepFolder, url: str) -> bool:
    """Copy the studies of a sweep to a database and replace earlier copies. Reports a failure and returns False."""
    if not folder.journal.exists():
        return True
    ours, sweep = open_journal(folder.journal), folder.id
    try:
        theirs = RDBStorage(url)
        for name in optuna.study.get_all_study_names(ours):
            optuna.load_study(study_name=name, storage=ours).set_user_attr(SWEEP_TAG, sweep)
            if owner := _other_owner(name, theirs, sweep):
                say(f"the study {name} is not copied: Optuna's database has one of that name, which belongs to {owner}")
                return False
            optuna.copy_study(from_study_name=name, from_storage=ours, to_storage=theirs)
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        say(f"the study did not reach Optuna's database, and is kept for `sweep sync`: {reason}")
        return False
    return True


def _other_owner(name: str, theirs: BaseStorage, sweep: str) -> str | None:
    """The other owner of the study of this name in the database, if any. Deletes this sweep's own copy."""
    if name not in optuna.study.get_all_study_names(theirs):
        return None
    study = optuna.load_study(study_name=name, storage=theirs)
    # A copy that was interrupted before its owner was written has no trials yet
    owner: Any = study.user_attrs.get(SWEEP_TAG, "another program" if study.get_trials(deepcopy=False) else sweep)
    if owner != sweep:
        return str(owner)
    optuna.delete_study(study_name=name, storage=theirs)
    return None
