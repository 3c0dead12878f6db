"""The Ray adapters, without Ray: the calls that Tune makes, made by hand."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
import torch

from search_spaces.config import TrainingConfig
from search_spaces.errors import SponError
from search_spaces.sites import Site
from search_spaces.trial import TrialConfig
from tests.conftest import trials_of
from tests.services import free_port, kill_ray_node, start_ray_node
from tests.swept import ROOT
from trainables import ray_trainable
from trainables.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from trainables.proxy import MaskScorer
from trainables.ray_trainable import COMPLETE, FAILURE, MaskTrainable, SponTrainable, connect_ray
from trainables.training import Trainer
from trainables.trial import run_trial
from trainables.workbench import Workbench


def config_of(trial: TrialConfig, *states: Path) -> dict[str, object]:
    where = {"states": [str(state) for state in states]}
    return {"trial": trial.model_dump(mode="json"), "threads": 1, "gpus": 0.0, **where}


def worker(trial: TrialConfig, *states: Path, **config: object) -> SponTrainable:
    """An actor whose first trial has begun, or was taken up from one of the states, the newest first."""
    actor = SponTrainable.__new__(SponTrainable)
    actor.setup(config_of(trial, *states) | config)
    return actor


def saved(actor: SponTrainable, place: Path) -> Path:
    """A state of the actor's trial, as Tune has it written."""
    place.mkdir()
    actor.save_checkpoint(str(place))
    return place


def mask_config(trial: TrialConfig, rungs: tuple[int, ...] = (4, 12)) -> dict[str, object]:
    return config_of(trial) | {"rungs": list(rungs)}


def mask_worker(trial: TrialConfig, shared: Path, *rungs: tuple[int, ...]) -> MaskTrainable:
    """An actor whose first mask has begun."""
    actor = MaskTrainable.__new__(MaskTrainable)
    actor.setup(mask_config(trial, *rungs), shared=read_checkpoint(shared))
    return actor


def run(actor: SponTrainable | MaskTrainable) -> list[dict[str, object]]:
    results = [actor.step()]
    while not results[-1]["done"]:
        results.append(actor.step())
    return results


def end_of(actor: SponTrainable) -> Checkpoint:
    """The checkpoint of the trial that the driver takes over."""
    with tempfile.TemporaryDirectory() as place:
        actor.save_checkpoint(place)
        return read_checkpoint(Path(place))


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
def masks(tiny_raw: dict[str, object]) -> list[TrialConfig]:
    """The trials of all candidate sites, of two of them, and of one."""
    tiny_raw["plan"]["modules"] = ["o_proj", "down_proj"]
    sites = [["0.o_proj", "0.down_proj", "1.o_proj", "1.down_proj"], ["0.o_proj", "1.down_proj"], ["1.o_proj"]]
    return trials_of(tiny_raw | {"allocations": [{"name": f"mask-of-{len(mask)}", "sites": mask} for mask in sites]})


@pytest.fixture
def shared(masks: list[TrialConfig], tiny_bench: Workbench, tmp_path: Path) -> Path:
    """The checkpoint with a bias at every candidate site."""
    directory = tmp_path / "shared"
    directory.mkdir()
    write_checkpoint(run_trial(tiny_bench, masks[0]), directory)
    return directory


def advanced(actor: SponTrainable, times: int) -> SponTrainable:
    for _ in range(times):
        actor.step()
    return actor


def steps(results: list[dict[str, object]]) -> list[float]:
    return [result["step"] for result in results]


def test_a_trial_through_the_adapter_is_the_trial_without_it(tiny_trial, tiny_bench):
    actor = worker(tiny_trial)
    results = run(actor)
    through, direct = end_of(actor), run_trial(tiny_bench, tiny_trial)
    assert steps(results) == [4, 8]
    assert [result["training_iteration"] for result in results] == [1, 2]
    assert [(result["done"], result[COMPLETE]) for result in results] == [(False, False), (True, True)]
    assert results[-1]["val_kl_nats"] == direct.meta.metrics["val_kl_nats"]
    assert results[-1]["n_spon_params"] == 64
    assert through.meta.metrics == direct.meta.metrics
    assert all(torch.equal(through.biases[site], vector) for site, vector in direct.biases.items())


def test_torch_has_the_threads_of_the_trial(tiny_trial, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    worker(tiny_trial, threads=3)
    assert threads == [3]


def test_the_next_trial_in_a_worker_loads_no_model_and_is_as_in_a_fresh_one(tiny_raw, counted):
    first, second = trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "ATTN-ONLY"]})
    used = worker(first)
    run(used)
    assert used.reset_config(config_of(second))
    run(used)
    assert len(counted) == 1
    run(fresh := worker(second))
    one, other = end_of(used), end_of(fresh)
    assert one.meta.metrics == other.meta.metrics
    assert all(torch.equal(one.biases[site], vector) for site, vector in other.biases.items())


def test_another_model_in_a_worker_is_loaded(tiny_trial, tiny_raw, counted):
    actor = worker(tiny_trial)
    (other,) = trials_of(tiny_raw | {"model": {"source": tiny_trial.model.source, "dtype": "bfloat16"}})
    actor.reset_config(config_of(other))
    assert [args[0].dtype for args in counted] == ["float32", "bfloat16"]


@pytest.mark.parametrize("training", [{}, {"early_stopping_patience": 1, "lr": 3.0}], ids=["last", "best is before"])
@pytest.mark.parametrize("by", ["this driver", "a later one"])
def test_a_trial_goes_on_in_another_worker_where_it_was(tiny_raw, tmp_path, training, by):
    (trial,) = trials_of(tiny_raw | {"training": tiny_raw["training"] | training})
    first = worker(trial)
    assert steps([first.step()]) == [4]
    state = saved(first, tmp_path / "state")
    with pytest.raises(SponError, match="is missing"):  # no checkpoint that analysis could take for one
        read_checkpoint(state)
    if by == "this driver":
        second = worker(trial)
        second.load_checkpoint(str(state))
    else:
        second = worker(trial, state)
    assert steps(run(second)) == [8]
    whole = worker(trial)
    run(whole)
    resumed, direct = end_of(second), end_of(whole)
    assert resumed.meta.metrics == direct.meta.metrics
    assert all(torch.equal(resumed.biases[site], vector) for site, vector in direct.biases.items())
    for name, scores in direct.scores.items():
        assert torch.equal(resumed.scores[name].block_kl, scores.block_kl)


@pytest.mark.parametrize(
    ("allocation", "training"),
    [("UNIF-ALL", {"early_stopping_patience": 1, "lr": 3.0, "epochs": 9}), ("BASELINE-TEAL", {})],
)
def test_a_finished_trial_that_is_taken_up_again_says_the_same_again(tiny_raw, tmp_path, allocation, training):
    raw = tiny_raw | {"allocations": [allocation], "training": {**tiny_raw["training"], **training}}
    (trial,) = trials_of(raw)
    first = worker(trial)
    last = run(first)[-1]
    assert last["done"]
    again = worker(trial, saved(first, tmp_path / "state"))
    assert again.step() == last
    assert end_of(again).meta.metrics == end_of(first).meta.metrics


def test_a_trial_that_diverges_ends_with_its_reason_and_the_worker_goes_on(tiny_trial, monkeypatch, counted):
    actor, loss = worker(tiny_trial), Trainer._loss
    monkeypatch.setattr(Trainer, "_loss", lambda self, rows: loss(self, rows) * (1 if self.step < 5 else float("nan")))
    assert not actor.step()["done"]
    result = actor.step()
    reason = "the loss must stay finite, but it is nan at step 6 (at training.lr)"
    assert result == {FAILURE: reason, COMPLETE: False, "done": True}
    assert actor.step() == result
    monkeypatch.setattr(Trainer, "_loss", loss)
    actor.reset_config(config_of(tiny_trial))
    assert FAILURE not in run(actor)[-1]
    assert len(counted) == 1


def test_a_fault_that_the_user_must_mend_is_a_result_and_not_an_exception(tiny_trial):
    missing = tiny_trial.model_copy(update={"model": tiny_trial.model.model_copy(update={"source": "/not/there"})})
    result = worker(missing).step()
    assert "'/not/there' is neither" in result[FAILURE]
    assert result["done"]


# Limits


def test_a_trial_that_takes_too_long_fails_with_the_limit(tiny_trial, monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(ray_trainable.time, "monotonic", lambda: next(clock))
    actor = worker(tiny_trial, max_minutes=1)
    result = actor.step()  # looked at before each step: 30 s, 60 s, 90 s
    assert actor._trial._trainer.step == 2
    reason = "a trial must end within 1 min, but took more (at resources.max_minutes)"
    assert result == {FAILURE: reason, COMPLETE: False, "done": True}


def test_time_before_a_restart_counts(tiny_trial, tmp_path):
    first = advanced(worker(tiny_trial), 1)
    first._trial._history[0]["seconds"] = 61.0
    second = worker(tiny_trial, saved(first, tmp_path / "state"), max_minutes=1)
    assert "within 1 min" in second.step()[FAILURE]


@pytest.mark.parametrize("where", ["setup", "validation"])
def test_a_gpu_that_is_too_small_is_a_failure_that_says_what_to_lower(tiny_trial, tmp_path, monkeypatch, where):
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free")

    actor = worker(tiny_trial)
    if where == "setup":
        monkeypatch.setattr(ray_trainable, "Trial", full)
        actor.reset_config(config_of(tiny_trial))
    else:
        monkeypatch.setattr(actor._trial, "_score", full)
    result = actor.step()
    assert "but loading or scoring its model did not: lower training.batch_size or corpus.block_size" in result[FAILURE]
    assert result["done"]


@pytest.mark.parametrize("by", ["this driver", "a later one"])
@pytest.mark.parametrize("name", ["training.safetensors", "kept.safetensors", "history.json"])
def test_a_state_that_cannot_be_read_is_passed_over_for_the_one_before(tiny_raw, tmp_path, name, by):
    (trial,) = trials_of(tiny_raw | {"training": tiny_raw["training"] | {"epochs": 4}})
    first = worker(trial)
    before, newest = (saved(advanced(first, times), tmp_path / name) for times, name in ((2, "before"), (1, "newest")))
    (newest / name).unlink()
    if by == "this driver":
        second = worker(trial, before)
        second.load_checkpoint(str(newest))
    else:
        second = worker(trial, newest, before)
    assert steps(run(second)) == [12, 16]
    run(first)
    assert all(torch.equal(end_of(second).biases[site], vector) for site, vector in end_of(first).biases.items())


def test_a_trial_whose_states_are_all_gone_begins_anew(tiny_trial, tmp_path):
    assert steps(run(worker(tiny_trial, tmp_path / "gone", tmp_path / "too"))) == [4, 8]


def test_a_bug_is_an_exception(tiny_trial, monkeypatch):
    actor = worker(tiny_trial)

    def bug(self: object, rows: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "_loss", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        actor.step()


# Masks on the proxy


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_a_mask_is_scored_rung_by_rung_as_without_the_adapter(masks, tiny_bench, tmp_path, form):
    every, mask, _ = (trial.model_copy(update={"training": TrainingConfig(form=form, lr=0.03)}) for trial in masks)
    checkpoint = run_trial(tiny_bench, every)
    write_checkpoint(checkpoint, tmp_path)
    results = run(mask_worker(mask, tmp_path, (2, 4, 12)))
    assert [result["blocks"] for result in results] == [2, 4, 12]
    assert [(result["done"], result[COMPLETE]) for result in results] == [(False, False), (False, False), (True, True)]
    assert {result["n_spon_params"] for result in results} == {mask.n_spon_params}
    scorer = MaskScorer(tiny_bench, mask.plan, checkpoint.biases, form)
    direct, last = scorer.scores(frozenset(map(Site.parse, mask.sites)), 12), results[-1]
    assert (last["val_kl_nats"], last["val_nll_nats"]) == pytest.approx(direct[:2], rel=1e-6)
    assert last["block_kl_nats"] == pytest.approx(direct.block_kl_nats, rel=1e-6)


def test_the_next_mask_in_a_worker_is_scored_from_its_first_rung_on_the_same_scorer(masks, shared, counted):
    used, fresh = mask_worker(masks[1], shared), mask_worker(masks[2], shared)
    used.step()
    scorer = used._scorer
    used.reset_config(mask_config(masks[2]))
    assert used._scorer is scorer
    assert run(used) == run(fresh)
    assert len(counted) == 2


@pytest.mark.parametrize("used", [False, True], ids=["first", "after another mask"])
def test_shared_biases_of_another_plan_are_a_failure_that_names_both(masks, shared, used):
    levels = masks[1].plan.levels | {"0.o_proj": 0.5}
    other = masks[1].model_copy(update={"plan": masks[1].plan.model_copy(update={"levels": levels})})
    actor = mask_worker(masks[1] if used else other, shared)
    actor.reset_config(mask_config(other))
    result = actor.step()
    assert (
        "o_proj+down_proj@0.60 topk, output_bias for o_proj+down_proj@0.50-0.60#773f topk, output_bias (at"
        in result[FAILURE]
    )
    assert (result["done"], result[COMPLETE]) == (True, False)


def test_a_mask_of_another_text_is_a_failure(masks, shared):
    result = mask_worker(masks[1].model_copy(update={"corpus_fingerprint": "other"}), shared).step()
    assert "a trial must run on its own corpus" in result[FAILURE]


def test_after_a_failure_the_worker_scores_the_next_mask(masks, shared):
    actor = mask_worker(masks[1].model_copy(update={"sites": ("0.q_proj",)}), shared)
    assert "shared biases only, but 0.q_proj has none" in actor.step()[FAILURE]
    actor.reset_config(mask_config(masks[2]))
    assert run(actor)[-1][COMPLETE]


def test_ray_on_this_machine_is_its_own_and_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(ray, "init", lambda *where, **how: given.extend((where, how)))
    connect_ray(None)
    where, how = given
    assert where == ("local",)  # and not one that runs here already
    assert how["include_dashboard"] is False


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*where: object, **how: object) -> None:
        raise Exception("The node timed out.\nLook at its logs.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(
        SponError, match=r"^Ray must start on this machine, but The node timed out\. Look at its logs\.$"
    ):
        connect_ray(None)


def test_a_driver_that_would_not_be_on_its_cluster_is_refused() -> None:
    with pytest.raises(SponError, match=r"by ray job submit\), but got ray://127\.0\.0\.1:9 \(at --address\)"):
        connect_ray("ray://127.0.0.1:9")


@pytest.mark.parametrize("address", ["nosuch://x", "127.0.0.1"])
def test_an_address_that_cannot_be_is_one_line(address: str) -> None:
    with pytest.raises(SponError, match=r"a Ray cluster must answer, but .*\(at --address\)"):
        connect_ray(address)


_ASK = """
import sys
import ray
import trainables
from trainables.checkpoint import code_commit
from trainables.ray_trainable import connect_ray

def where():
    import trainables
    return trainables.__file__, code_commit()

connect_ray(sys.argv[1])
file, commit = ray.get(ray.remote(where).remote(), timeout=60)
assert "py_modules_files" in file, file
assert commit == code_commit()
"""


@pytest.mark.ray
def test_workers_of_a_cluster_have_the_drivers_code_and_know_its_commit():
    address = f"127.0.0.1:{free_port()}"
    place = tempfile.mkdtemp(prefix="node")
    agent = f"--dashboard-agent-listen-port={free_port()}"
    options = ("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", "--num-cpus=1", agent)
    try:
        start_ray_node(place, {}, *options, "--object-store-memory=100000000")
        # From elsewhere: Ray's workers look for code where the driver was started, too
        words, env = [sys.executable, "-c", _ASK, address], os.environ | {"PYTHONPATH": str(ROOT)}
        asked = subprocess.run(words, capture_output=True, text=True, cwd=place, env=env)
    finally:
        kill_ray_node(place)
    assert asked.returncode == 0, asked.stderr
