from pathlib import Path

import pytest

from search_spaces.sites import ModelShape
from search_spaces.trial import TrialConfig
from sweep.store.counts import Counts
from sweep.tune.progress import Progress
from tests.conftest import trials_of
from trainables.activity import Activity
from trainables.workbench import find_materials


@pytest.fixture
def shape(tiny_trial: TrialConfig) -> ModelShape:
    return find_materials(tiny_trial.model, tiny_trial.corpus).shape


@pytest.fixture
def progress(shape: ModelShape, tiny_trial: TrialConfig) -> Progress:
    return Progress(shape, [tiny_trial])


def validation(step: float, seconds: float = 10.0, recovered: float = 0.1) -> dict[str, float]:
    return {"step": step, "seconds": seconds, "val_kl_nats": 0.5, "val_kl_recovered": recovered, "val_ppl": 20.0}


def test_each_event_is_one_line(
    progress: Progress, tiny_trial: TrialConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.started(tiny_trial)
    progress.validated(tiny_trial, validation(4))
    progress.known(tiny_trial, validation(4))
    progress.lost(tiny_trial, "its node is gone")
    progress.finished(tiny_trial)
    progress.failed(tiny_trial, "because")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["start", "valid", "again", "lost", "done", "FAILED"]
    assert "step 4/8" in lines[1]
    assert "KL 0.5000 nats (+10.0% recovered)" in lines[1]


def test_a_trial_half_done_has_as_much_to_go(progress: Progress, tiny_trial: TrialConfig) -> None:
    progress.started(tiny_trial)
    assert progress.standing().seconds_left is None
    progress.validated(tiny_trial, validation(4))
    standing = progress.standing()
    assert (standing.text, standing.share) == ("0 of 1 trials done", 0.5)
    assert standing.seconds_left == pytest.approx(10.0)


def test_steps_are_heard_between_validations(progress: Progress, tiny_trial: TrialConfig) -> None:
    progress.started(tiny_trial)
    for step, now in ((1, 100.0), (2, 101.0), (3, 102.0)):
        progress.heard(tiny_trial.name, Activity("training", step, 8, "step"), now)
    assert 5 < (progress.standing().seconds_left or 0) < 12
    progress.heard(tiny_trial.name, Activity("validation", 1, 2, "batch"), 103.0)
    progress.heard("another", Activity("training", 1, 8, "step"), 103.0)


def test_a_search_says_what_cost_nothing(shape: ModelShape, tiny_trial: TrialConfig, tmp_path: Path) -> None:
    Counts(new=3, open=1, repeated=2).write(tmp_path / "counts.json")
    progress = Progress(shape, [], n_trials=5, counts=tmp_path / "counts.json")
    progress.started(tiny_trial)
    assert progress.standing().text == "2 of 5 trials done; 2 known and not run"


def test_the_estimate_leaves_out_what_an_earlier_process_did(shape: ModelShape, tiny_raw: dict[str, object]) -> None:
    one, two = trials_of(tiny_raw | {"seeds": [1, 2]})
    progress = Progress(shape, [one, two], n_before=8)
    progress.started(one)
    progress.validated(one, validation(8, seconds=600))
    progress.finished(one)
    standing = progress.standing()
    assert standing.text == "9 of 10 trials done"
    assert standing.seconds_left == pytest.approx(600)


def test_the_best_of_each_plan_is_kept(shape: ModelShape, tiny_raw: dict[str, object]) -> None:
    trials = trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "TOP-50"], "sparsity": [0.5, 0.6]})
    progress = Progress(shape, trials)
    for trial, recovered in zip(trials, (0.1, 0.3, 0.2, 0.1), strict=True):
        progress.started(trial)
        progress.validated(trial, validation(8, recovered=recovered))
        progress.finished(trial)
    assert sorted(line.partition("nats ")[2] for line in progress.standing().best) == [
        "(+20.0% recovered)",
        "(+30.0% recovered)",
    ]
