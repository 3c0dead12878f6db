"""The Ray adapter, without Ray: the calls that Tune makes, made by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search_spaces.errors import SponError
from search_spaces.schema import TrialConfig
from tests.conftest import trials_of
from trainables import ray_trainable
from trainables.checkpoint import read_checkpoint
from trainables.ray_trainable import FAILURE, SponTrainable
from trainables.training import Trainer
from trainables.trial import run_trial
from trainables.workbench import Workbench


def config_of(trial: TrialConfig) -> dict[str, object]:
    return {"trial": trial.model_dump(mode="json"), "threads": 1, "gpus": 0.0}


def worker(trial: TrialConfig) -> SponTrainable:
    """An actor whose first trial has begun."""
    actor = SponTrainable.__new__(SponTrainable)
    actor.setup(config_of(trial))
    return actor


def run(actor: SponTrainable) -> list[dict[str, object]]:
    results = [actor.step()]
    while not results[-1]["done"]:
        results.append(actor.step())
    return results


def saved(actor: SponTrainable, directory: Path) -> Path:
    directory.mkdir()
    actor.save_checkpoint(str(directory))
    return directory


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The workbenches that are made."""
    made: list[object] = []

    def workbench(*args: object) -> Workbench:
        made.append(args)
        return Workbench(*args)

    monkeypatch.setattr(ray_trainable, "Workbench", workbench)
    return made


@pytest.fixture
def diverge(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes training diverge beyond a step."""

    def after(step: int) -> None:
        plain = Trainer._loss
        monkeypatch.setattr(
            Trainer, "_loss", lambda self, rows: plain(self, rows) * (float("nan") if self.step >= step else 1)
        )

    return after


def test_a_trial_through_the_adapter_is_the_trial_without_it(tiny_trial, tiny_bench, tmp_path):
    actor = worker(tiny_trial)
    results = run(actor)
    through = read_checkpoint(saved(actor, tmp_path / "end"))
    direct = run_trial(tiny_bench, tiny_trial)
    assert [result["step"] for result in results] == [4, 8]
    assert [result["done"] for result in results] == [False, True]
    assert results[-1]["val_kl_nats"] == direct.meta.metrics["val_kl_nats"]
    assert through.meta.metrics == direct.meta.metrics
    assert all(torch.equal(through.biases[site], vector) for site, vector in direct.biases.items())


def test_torch_has_the_threads_of_the_trial(tiny_trial, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    SponTrainable.__new__(SponTrainable).setup(config_of(tiny_trial) | {"threads": 3})
    assert threads == [3]


def test_the_next_trial_in_a_worker_loads_no_model(tiny_raw, counted):
    first, second = trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "TOP-50"]})
    actor = worker(first)
    run(actor)
    assert actor.reset_config(config_of(second))
    run(actor)
    assert len(counted) == 1


def test_the_next_trial_in_a_worker_is_as_in_a_fresh_one(tiny_raw, tmp_path):
    first, second = trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "ATTN-ONLY"]})
    used, fresh = worker(first), worker(second)
    run(used)
    used.reset_config(config_of(second))
    run(used)
    run(fresh)
    one, other = (read_checkpoint(saved(actor, tmp_path / name)) for actor, name in ((used, "used"), (fresh, "fresh")))
    assert one.meta.metrics == other.meta.metrics
    assert all(torch.equal(one.biases[site], vector) for site, vector in other.biases.items())


def test_another_model_in_a_worker_is_loaded(tiny_trial, tiny_raw, counted):
    actor = worker(tiny_trial)
    (other,) = trials_of(tiny_raw | {"model": {"source": tiny_trial.model.source, "dtype": "bfloat16"}})
    actor.reset_config(config_of(other))
    assert [args[0].dtype for args in counted] == ["float32", "bfloat16"]


def test_a_trial_goes_on_in_another_worker_where_it_was(tiny_trial, tmp_path):
    first = worker(tiny_trial)
    first.step()
    place = saved(first, tmp_path / "pause")
    second, whole = worker(tiny_trial), worker(tiny_trial)
    second.load_checkpoint(str(place))
    run(whole)
    assert [result["step"] for result in run(second)] == [8]
    resumed, direct = read_checkpoint(saved(second, tmp_path / "a")), read_checkpoint(saved(whole, tmp_path / "b"))
    assert resumed.meta.metrics == direct.meta.metrics
    assert all(torch.equal(resumed.biases[site], vector) for site, vector in direct.biases.items())


def test_an_unfinished_trial_has_no_checkpoint_that_analysis_could_take_for_one(tiny_trial, tmp_path):
    actor = worker(tiny_trial)
    actor.step()
    with pytest.raises(SponError, match="is missing"):
        read_checkpoint(saved(actor, tmp_path / "pause"))


@pytest.mark.parametrize("training", [{}, {"early_stopping_patience": 1, "lr": 3.0, "epochs": 9}])
@pytest.mark.parametrize("allocation", ["UNIF-ALL", "BASELINE-TEAL"])
def test_a_finished_trial_that_is_taken_up_again_says_the_same_again(tiny_raw, tmp_path, allocation, training):
    raw = tiny_raw | {"allocations": [allocation], "training": {**tiny_raw["training"], **training}}
    (trial,) = trials_of(raw)
    first, second = worker(trial), worker(trial)
    last = run(first)[-1]
    one = saved(first, tmp_path / "one")
    second.load_checkpoint(str(one))
    assert second.step() == last
    other = saved(second, tmp_path / "other")
    before, after = read_checkpoint(one), read_checkpoint(other)
    assert before.meta == after.meta
    assert all(torch.equal(vector, after.biases[site]) for site, vector in before.biases.items())
    assert (one / "scores.safetensors").read_bytes() == (other / "scores.safetensors").read_bytes()


def test_a_trial_that_diverges_ends_with_its_reason(tiny_trial, diverge):
    actor = worker(tiny_trial)
    diverge(5)
    assert not actor.step()["done"]
    result = actor.step()
    assert result == {FAILURE: "the loss must stay finite, but it is nan at step 6 (at training.lr)", "done": True}
    assert actor.step() == result


def test_after_a_trial_that_diverged_the_worker_is_as_good_as_new(tiny_trial, diverge, monkeypatch, counted):
    actor = worker(tiny_trial)
    diverge(0)
    actor.step()
    monkeypatch.setattr(Trainer, "_loss", Trainer._loss)
    monkeypatch.undo()
    actor.reset_config(config_of(tiny_trial))
    assert FAILURE not in run(actor)[-1]
    assert len(counted) == 1


def test_a_failed_trial_that_is_taken_up_again_says_so_again(tiny_trial, diverge, tmp_path):
    first, second = worker(tiny_trial), worker(tiny_trial)
    diverge(0)
    result = first.step()
    second.load_checkpoint(str(saved(first, tmp_path / "failed")))
    assert second.step() == result


def test_a_fault_that_the_user_must_mend_is_a_result_and_not_an_exception(tiny_trial, tmp_path):
    missing = tiny_trial.model_copy(update={"model": tiny_trial.model.model_copy(update={"source": "/not/there"})})
    actor = worker(missing)
    result = actor.step()
    assert "'/not/there' is neither" in result[FAILURE]
    assert result["done"]
    assert (saved(actor, tmp_path / "failed") / FAILURE).read_text() == result[FAILURE]


def test_a_trial_of_another_text_is_a_failure_that_names_both(tiny_trial):
    result = worker(tiny_trial.model_copy(update={"corpus_fingerprint": "other"})).step()
    assert "a trial must run on its own corpus, but it was made for other" in result[FAILURE]


def test_a_bug_is_an_exception(tiny_trial, monkeypatch):
    actor = worker(tiny_trial)

    def bug(self: object, rows: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "_loss", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        actor.step()
