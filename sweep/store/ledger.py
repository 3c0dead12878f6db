"""The ledger: a trial that finished anywhere in a storage is not trained again."""

import json
from collections.abc import Iterable
from dataclasses import replace

from search_spaces.trial import TrialConfig
from sweep.store.folder import SweepFolder, TrialFolder
from trainables.checkpoint import read_checkpoint, without_test

_ADOPTED = "adopted.json"


def adopt(folder: SweepFolder, trial: TrialConfig) -> TrialFolder | None:
    """Return the finished trial in this sweep, copied from another sweep if necessary; None if no sweep has it.

    Test scores are not copied, because this sweep has not opened the test split.
    """
    mine = folder.trial(trial)
    if mine.state == "finished":
        return mine
    theirs = _find(folder, trial)
    if theirs is None:
        return None
    mine.start(trial)
    mine.add_progress(*theirs.progress)
    (mine.path / _ADOPTED).write_text(json.dumps({"from": str(theirs.path)}))
    known = without_test(read_checkpoint(theirs.checkpoint_path))
    mine.store(replace(known, meta=known.meta.model_copy(update={"config": trial})))
    return mine


def missing(folder: SweepFolder, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Return the trials that this sweep must train, including those it has trained, so that the list is stable."""
    return [t for t in trials if not ((known := adopt(folder, t)) and (known.path / _ADOPTED).exists())]


def _find(folder: SweepFolder, trial: TrialConfig) -> TrialFolder | None:
    """Find the oldest finished trial of the same identity in another sweep. Names end in its first ten digits."""
    named = folder.path.parent.glob(f"*/trials/*_{trial.identity[:10]}/trial.json")
    for file in sorted(named, key=lambda file: file.stat().st_mtime):
        known = TrialFolder(file.parent)
        if known.state == "finished" and known.config.identity == trial.identity:
            return known
    return None
