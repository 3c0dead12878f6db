"""What was trained in one sweep of a storage, and asked for in another."""

import json

import pytest

from sweep.store.folder import SweepFolder
from sweep.store.ledger import adopt, missing
from tests.sweep.search.fabricated import checkpoint_of, scores_of, trials_of
from trainables.checkpoint import read_checkpoint


def train(folder, trial):
    """Finish a trial in a sweep, test split and all."""
    found = folder.trial(trial)
    found.start(trial)
    found.add_progress({"step": 4.0, "val_kl_nats": 0.5})
    scores = {"validation.spon": scores_of([0.5, 0.25]), "test.spon": scores_of([0.5, 0.75])}
    found.store(checkpoint_of(trial, {"val_kl_nats": 0.5, "test_kl_nats": 0.625}, scores))


@pytest.fixture
def mine(tmp_path):
    return SweepFolder(tmp_path / "mine")


@pytest.fixture
def theirs(tmp_path):
    return SweepFolder(tmp_path / "theirs")


@pytest.fixture
def known(theirs):
    """A finished trial of another sweep, under the name that this one has for it."""
    (trial,) = trials_of({"name": "theirs", "layers": [0, 1, 2, 3]})
    train(theirs, trial)
    return trials_of("TOP-50")[0]


def test_a_finished_trial_of_another_sweep_is_adopted_as_it_was_on_validation_text_whatever_its_name(
    mine, theirs, known
):
    adopted = adopt(mine, known)
    assert adopted == mine.trial(known)
    assert adopted.state == "finished"
    assert json.loads((adopted.path / "adopted.json").read_text()) == {"from": str(theirs.trials[0].path)}
    assert adopted.progress == [{"step": 4.0, "val_kl_nats": 0.5}]
    checkpoint = read_checkpoint(adopted.checkpoint_path)
    assert adopted.config == checkpoint.meta.config == known
    assert {str(site) for site in checkpoint.biases} == {f"{layer}.down_proj" for layer in range(4)}
    assert checkpoint.scores["validation.spon"].kl_nats == 0.375
    assert set(checkpoint.scores) == {"validation.spon"}
    assert set(checkpoint.meta.metrics) == {"val_kl_nats"}


def test_the_other_sweep_keeps_what_it_has(mine, theirs, known):
    adopt(mine, known)
    (trial,) = theirs.trials
    assert trial.config.allocation == "theirs"
    assert "test.spon" in read_checkpoint(trial.checkpoint_path).scores


def test_a_trial_of_ones_own_is_given_as_it_is(mine, known):
    train(mine, known)
    own = adopt(mine, known)
    assert "test.spon" in read_checkpoint(own.checkpoint_path).scores
    assert not (own.path / "adopted.json").exists()


@pytest.mark.parametrize("end", ["running", "failed", "stopped"])
def test_a_trial_that_did_not_finish_is_not_adopted(mine, theirs, end):
    (trial,) = trials_of("TOP-50")
    theirs.trial(trial).start(trial)
    if end == "failed":
        theirs.trial(trial).fail("the loss must stay finite")
    if end == "stopped":
        theirs.trial(trial).stop()
    assert theirs.trial(trial).state == end
    assert adopt(mine, trial) is None
    assert mine.trials == []


def test_a_trial_that_nobody_trained_or_in_another_storage_is_not_found(mine, known, tmp_path):
    assert adopt(mine, trials_of("BOTTOM-50")[0]) is None
    assert adopt(SweepFolder(tmp_path / "elsewhere" / "mine"), known) is None


def test_equal_digits_in_a_name_are_not_enough(mine, theirs, known):
    folder = theirs.trials[0].path
    other = trials_of("BOTTOM-50")[0]
    (folder / "trial.json").write_text(other.model_dump_json())
    assert adopt(mine, known) is None


def test_the_missing_stay_the_same_when_some_have_been_trained_here(mine, known):
    wanted = [known, *trials_of("BOTTOM-50", "UNIF-ALL")]
    assert missing(mine, wanted) == wanted[1:]
    train(mine, wanted[1])
    assert missing(mine, wanted) == wanted[1:]
