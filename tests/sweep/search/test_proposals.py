"""What a scheduler is told of a search that goes on, from a folder and a study that were made up."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from search_spaces.trial import TrialConfig
from sweep.search import proposals
from sweep.search.mask_search import MaskSearch
from sweep.search.task import Task, TrainedMasks
from sweep.store.folder import SweepFolder
from tests.sweep.search.fabricated import PRINTS, SHAPE, space_of, trials_of
from trainables.trial import run_trial
from trainables.workbench import Workbench


def test_of_trained_masks_the_scheduler_knows_those_that_the_search_gave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["UNIF-ALL", "TOP-50", "TOP-25"]
    space = space_of(*names, search={"algorithm": "random", "n_masks": 9, "stopping": "asha"})
    everywhere, half, quarter = trials_of(*names)
    folder = SweepFolder(tmp_path)
    masks = SimpleNamespace(
        known=lambda trial: (0.5,) if trial.identity == half.identity else None,  # adopted
        job=lambda trial: {"name": trial.name},
    )
    task = Task(space, SHAPE, PRINTS, masks, tmp_path / "proposals.json")
    first = MaskSearch(task, folder.journal)
    assert [first.suggest(i)["name"] for i in "ab"] == [everywhere.name, quarter.name]
    for trial in (everywhere, half, quarter):
        found = folder.trial(trial)
        found.start(trial)
        found.add_progress({"step": 4.0, "val_kl_nats": 0.25 if trial is everywhere else 0.1})
    folder.trial(everywhere).stop()  # quarter is under way when the driver is lost
    folder.trial(half).stop()

    monkeypatch.setattr(proposals, "Halving", lambda resources, asha, rungs, known: SimpleNamespace(known=known))
    scheduler = proposals._scheduler(folder, task, MaskSearch(task, folder.journal))
    assert list(scheduler.known) == [(everywhere.name, 1, 0.25)]


def test_a_trial_that_was_trained_to_measure_is_a_result_once_it_is_proposed(
    tmp_path: Path, tiny_trial: TrialConfig
) -> None:
    folder = SweepFolder(tmp_path / "search")
    trial = folder.trial(tiny_trial)
    trial.set_aside(tiny_trial)
    trial.store(run_trial(Workbench(tiny_trial.model, tiny_trial.corpus, "cpu"), tiny_trial))
    assert folder.results == []
    assert TrainedMasks(folder, ("val_kl_nats",)).known(tiny_trial) is not None
    assert [result.path.name for result in folder.results] == [tiny_trial.name]
