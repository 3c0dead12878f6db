"""What was trained in one sweep of a storage, and asked for in another."""

import json

import pytest

from search_spaces.config import SpaceConfig
from search_spaces.resolve import Fingerprints, resolve_space
from sweep.store.folder import SweepFolder
from sweep.store.ledger import Ledger
from tests.search_spaces.conftest import make_shape
from tests.sweep.search.fabricated import checkpoint_of, scores_of
from trainables.checkpoint import read_checkpoint


def trials(*allocations):
    given = {"name": "s", "model": {"dtype": "float32"}, "sparsity": [0.5], "allocations": allocations}
    return resolve_space(SpaceConfig.model_validate(given), make_shape(4), Fingerprints("m", "c"))


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
    (trial,) = trials({"name": "theirs", "layers": [0, 1]})
    train(theirs, trial)
    return trials("TOP-50")[0]


def test_a_finished_trial_of_another_sweep_is_adopted_whatever_its_name(mine, known):
    adopted = Ledger(mine).adopt(known)
    assert adopted == mine.trial(known)
    assert adopted.state == "finished"
    assert Ledger.is_adopted(adopted)


def test_an_adopted_trial_has_the_config_of_the_sweep_that_asks(mine, known):
    adopted = Ledger(mine).adopt(known)
    assert adopted.config == read_checkpoint(adopted.checkpoint_path).meta.config == known


def test_an_adopted_trial_has_the_biases_and_the_validations(mine, known):
    adopted = Ledger(mine).adopt(known)
    checkpoint = read_checkpoint(adopted.checkpoint_path)
    assert {str(site) for site in checkpoint.biases} == {"0.down_proj", "1.down_proj"}
    assert checkpoint.scores["validation.spon"].kl_nats == 0.375
    assert adopted.progress == [{"step": 4.0, "val_kl_nats": 0.5}]


def test_what_another_sweep_knows_of_the_test_split_stays_behind(mine, known):
    checkpoint = read_checkpoint(Ledger(mine).adopt(known).checkpoint_path)
    assert set(checkpoint.scores) == {"validation.spon"}
    assert set(checkpoint.meta.metrics) == {"val_kl_nats"}


def test_the_other_sweep_keeps_what_it_has(mine, theirs, known):
    Ledger(mine).adopt(known)
    (trial,) = theirs.trials
    assert trial.config.allocation == "theirs"
    assert "test.spon" in read_checkpoint(trial.checkpoint_path).scores


def test_a_trial_of_ones_own_is_given_as_it_is(mine, known):
    train(mine, known)
    own = Ledger(mine).adopt(known)
    assert "test.spon" in read_checkpoint(own.checkpoint_path).scores
    assert not Ledger.is_adopted(own)


@pytest.mark.parametrize("end", ["running", "failed", "stopped"])
def test_a_trial_that_did_not_finish_is_not_adopted(mine, theirs, end):
    (trial,) = trials("TOP-50")
    theirs.trial(trial).start(trial)
    if end == "failed":
        theirs.trial(trial).fail("the loss must stay finite")
    if end == "stopped":
        theirs.trial(trial).stop()
    assert theirs.trial(trial).state == end
    assert Ledger(mine).adopt(trial) is None
    assert mine.trials == []


def test_nothing_is_found_where_nobody_trained_the_trial(mine, known):
    assert Ledger(mine).adopt(trials("BOTTOM-50")[0]) is None


def test_a_sweep_in_another_storage_is_not_looked_at(tmp_path, known):
    assert Ledger(SweepFolder(tmp_path / "elsewhere" / "mine")).adopt(known) is None


def test_equal_digits_in_a_name_are_not_enough(mine, theirs, known):
    folder = theirs.trials[0].path
    other = trials("BOTTOM-50")[0]
    (folder / "trial.json").write_text(other.model_dump_json())
    assert Ledger(mine).adopt(known) is None


def test_the_missing_are_those_that_nobody_has_trained(mine, known):
    (other,) = trials("BOTTOM-50")
    assert Ledger(mine).missing([known, other]) == [other]


def test_the_missing_stay_the_same_when_some_have_been_trained_here(mine, known):
    wanted = [known, *trials("BOTTOM-50", "UNIF-ALL")]
    missing = Ledger(mine).missing(wanted)
    train(mine, missing[0])
    assert Ledger(mine).missing(wanted) == missing


def test_an_adopted_trial_says_where_it_is_from(mine, theirs, known):
    adopted = Ledger(mine).adopt(known)
    assert json.loads((adopted.path / "adopted.json").read_text()) == {"from": str(theirs.trials[0].path)}
