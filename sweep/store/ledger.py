"""The ledger: a trial that finished anywhere in a storage is not trained again."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, TrialFolder
from trainables.checkpoint import read_checkpoint, without_test

_ADOPTED = "adopted.json"


class Ledger:
    """Finished trials in a storage, by the identity of their resolved config.

    Args:
        folder: the sweep that asks; its storage is searched.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder

    def adopt(self, trial: TrialConfig) -> TrialFolder | None:
        """Return the finished trial in this sweep, copied from another sweep if necessary; None if no sweep has it.

        Test scores are not copied, because this sweep has not opened the test split.
        """
        mine = self._folder.trial(trial)
        if mine.state == "finished":
            return mine
        theirs = self._find(trial)
        if theirs is None:
            return None
        mine.start(trial)
        mine.add_progress(*theirs.progress)
        (mine.path / _ADOPTED).write_text(json.dumps({"from": str(theirs.path)}))
        known = without_test(read_checkpoint(theirs.checkpoint_path))
        mine.store(replace(known, meta=known.meta.model_copy(update={"config": trial})))
        return mine

    def missing(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        """Return the trials that this sweep must train, including those it has trained, so that the list is stable."""
        return [t for t in trials if self.adopt(t) is None or not self.is_adopted(self._folder.trial(t))]

    @staticmethod
    def is_adopted(trial: TrialFolder) -> bool:
        """Whether a finished trial was trained in another sweep."""
        return (trial.path / _ADOPTED).exists()

    def _find(self, trial: TrialConfig) -> TrialFolder | None:
        """Find the oldest finished trial of the same identity in another sweep. Names end in its first ten digits."""
        storage = self._folder.path.parent
        for file in sorted(storage.glob(f"*/trials/*_{trial.identity[:10]}/trial.json"), key=_age):
            known = TrialFolder(file.parent)
            if known.state == "finished" and known.config.identity == trial.identity:
                return known
        return None


def _age(file: Path) -> float:
    return file.stat().st_mtime
