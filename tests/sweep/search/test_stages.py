"""A search through real Ray, Optuna and MLflow, on the tiny model."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sweep.search.mask_log import MaskLog
from sweep.search.mask_search import open_journal
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder
from tests.swept import ROOT, Swept, command, run, write_space
from trainables.checkpoint import read_checkpoint
from trainables.selection import SELECTION, read_selection

pytestmark = pytest.mark.ray

MODULES = ["o_proj", "down_proj"]
SEARCH = {
    "masks": {"family": "exactly_k", "k": 2, "per": "site", "modules": MODULES},
    "algorithm": {"name": "tpe", "n_startup_trials": 2},
    "n_masks": 5,
    "proxy": {"rungs": [4, 12], "n_train": 2, "n_reference": 3, "epochs": 2, "least_reliability": 0.0},
    "stopping": "asha",
    "confirm": {"seeds": [1, 2], "n_random": 1},
}


def searched_space(tiny_space: dict[str, object], **search: object) -> dict[str, object]:
    return tiny_space | {
        "plan": {"rule": "topk", "modules": MODULES},
        "allocations": ["BASELINE-TEAL", "UNIF-ALL", "ATTN-ONLY"],
        "training": {"lr": 0.03, "batch_size": 4, "epochs": 1},
        "resources": {"max_concurrent": 1},  # a worker takes longer to start than all its trials
        "search": SEARCH | search,
    }


@pytest.fixture(scope="module")
def searched(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Swept:
    directory = tmp_path_factory.mktemp("search")
    space = write_space(searched_space(tiny_space), directory)
    where = ("--storage", directory / "runs", "--optuna-storage", f"sqlite:///{directory / 'optuna.db'}")
    return Swept(space, directory / "runs", run("search", space, *where))


def test_the_chosen_the_named_and_controls_are_compared_on_the_test_split(searched: Swept) -> None:
    assert searched.ran.code == 0, searched.ran.out + searched.ran.err
    assert "the best named of its size" in searched.ran.out
    assert "5 masks evaluated" in searched.ran.out
    plan = read_selection(searched.folder.path / SELECTION)
    roles = {mask.name: mask.role for mask in plan.masks}
    (chosen,) = [mask for mask in plan.masks if mask.role == "chosen"]
    assert roles["UNIF-ALL"] == roles["ATTN-ONLY"] == "named"
    assert "control" in roles.values()
    assert all(mask.seeds == (1, 2) for mask in plan.masks)
    assert len(plan.differences) == len(plan.masks) - 1
    *_, use = searched.ran.out.splitlines()
    assert any(f"analysis export {searched.folder.path / place} " in use for place in chosen.checkpoints)


def test_only_the_final_comparison_has_seen_the_test_split(searched: Swept) -> None:
    for trial in searched.folder.trials:
        seed = trial.config.training.seed
        assert ("test.spon" in read_checkpoint(trial.checkpoint_path).scores) == (seed in (1, 2)), trial.path.name


def test_the_study_can_be_opened_stopped_masks_are_pruned_in_it_and_a_database_has_a_copy(searched: Swept) -> None:
    journal, database = open_journal(searched.folder.journal), f"sqlite:///{searched.space.parent / 'optuna.db'}"
    ours, theirs = (optuna.load_study(study_name="tiny", storage=at).get_trials() for at in (journal, database))
    full = {record.kl_nats for record in MaskLog(searched.folder.path / "masks.jsonl").on(12)}
    complete = {trial.value for trial in ours if trial.state == TrialState.COMPLETE}
    assert complete
    assert complete <= full
    assert not [trial for trial in ours if trial.state == TrialState.RUNNING]
    assert [(trial.number, trial.state) for trial in theirs] == [(trial.number, trial.state) for trial in ours]


def test_masks_that_span_the_search_are_scored_first_with_the_kl_of_each_block(searched: Swept) -> None:
    records = MaskLog(searched.folder.path / "reference.jsonl").on(12)
    names = [record.trial.allocation for record in records]
    assert {"UNIF-ALL", "ATTN-ONLY"} <= set(names)
    assert len(names) > 3
    for record in records:
        assert len(record.block_kl_nats) == 12
        assert sum(record.block_kl_nats) / 12 == pytest.approx(record.kl_nats)
    assert f"can the text tell: {len(names)} masks" in searched.ran.out


def test_files_are_in_the_parent_run_and_what_was_trained_to_measure_is_nowhere(searched: Swept) -> None:
    client = MlflowClient(searched.tracking_uri)
    parent = json.loads((searched.folder.path / "parent.json").read_text())["run"]
    sent = {artifact.path for artifact in client.list_artifacts(parent)}
    pictures = {f"search_{name}.png" for name in ("pareto", "masks", "layers", "progress", "proxy")}
    assert pictures | {SELECTION, "findings.txt", "masks.jsonl", "board.csv"} <= sent
    aside = [trial for trial in searched.folder.trials if trial.is_auxiliary]
    board = (searched.folder.path / "board.csv").read_text()
    assert aside
    assert not any(trial.config.name in board or (trial.path / "mlflow.json").exists() for trial in aside)


def test_the_stages_are_on_record_and_the_status_says_that_it_is_over(searched: Swept) -> None:
    stages = searched.folder.stages
    assert list(stages) == ["shared", "reference", "propose", "train", "confirm"]
    assert len(stages["confirm"]) == sum("_seed42_" not in name for name in stages["confirm"]) > 0
    trained = {name for stage, names in stages.items() if stage != "reference" for name in names}
    assert trained == {t.path.name for t in searched.folder.trials}
    ran = run("status", "tiny", "--storage", searched.storage)
    assert "search: done; selection.json has the chosen masks" in ran.out


@pytest.mark.slow
def test_a_search_by_measured_gains_stops_where_its_text_cannot_tell(tiny_space: dict, tmp_path: Path) -> None:
    changes = {
        "masks": {"family": "ranked", "modules": MODULES, "k": 2},
        "proxy": {"rungs": [12], "n_train": 2, "n_reference": 3, "least_reliability": 0.999},
        "stopping": None,
    }
    raw = searched_space(tiny_space, **changes) | {"allocations": ["BASELINE-TEAL", "ATTN-ONLY", "GAIN-50"]}
    raw |= {"plan": {"rule": "topk", "modules": MODULES, "levels": "fisher"}}
    space = write_space(raw, tmp_path)
    ran = run("search", space, "--storage", tmp_path / "runs")
    assert ran.code == 0, ran.out + ran.err
    assert "the search stops here: a reliability of 0.999 is required" in ran.out
    folder = SweepFolder(tmp_path / "runs" / "tiny")
    (key,) = json.loads((folder.path / "importance.json").read_text())
    assert key.startswith("GAIN ")
    assert list(folder.stages) == ["shared", "reference"]
    assert not (folder.path / "masks.jsonl").exists()
    status = run("status", "tiny", "--storage", tmp_path / "runs")
    assert "its text cannot tell masks apart" in status.out


RANKED = {"family": "ranked", "modules": MODULES, "k": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("masks", "says"), [(SEARCH["masks"], "no mask can be scored: "), (RANKED, "the masks cannot be ranked: ")]
)
def test_a_search_whose_shared_biases_diverge_reports_that_trial(
    tiny_space: dict[str, object], tmp_path: Path, masks: dict[str, object], says: str
) -> None:
    raw = searched_space(tiny_space, masks=masks)
    raw["training"] |= {"lr": 1.0, "weight_decay": 1e30}
    ran = run("search", write_space(raw, tmp_path), "--storage", tmp_path / "runs")
    assert ran.code == 1, ran.out + ran.err
    assert says in ran.out
    assert "finite" in ran.out.split("1 trials FAILED:")[1]
    assert not (tmp_path / "runs" / "tiny" / "masks.jsonl").exists()


def test_the_same_command_again_runs_nothing(searched: Swept) -> None:
    before = {trial.path.name: trial.checkpoint_path.stat().st_mtime for trial in searched.folder.trials}
    ran = run("search", searched.space, "--storage", searched.storage, cold=True)
    assert ran.code == 0, ran.err
    assert "  start  " not in ran.out
    assert {trial.path.name: trial.checkpoint_path.stat().st_mtime for trial in searched.folder.trials} == before


def test_another_search_trains_nothing_that_this_one_did(tiny_space: dict[str, object], searched: Swept) -> None:
    raw = searched_space(tiny_space, proxy=None, stopping=None, n_masks=2) | {"name": "second", "resources": {}}
    file = write_space(raw, searched.space.parent)
    ran = run("search", file, "--storage", searched.storage)
    assert ran.code == 0, ran.err
    adopted = [t for t in SweepFolder(searched.storage / "second").trials if (t.path / "adopted.json").exists()]
    assert {"UNIF-ALL", "ATTN-ONLY"} <= {trial.config.allocation for trial in adopted}
    assert "  start  UNIF-ALL" not in ran.out


def stop_among_proposals(folder: SweepFolder, *arguments: object) -> str:
    """Run a command until one mask more has been scored, then press Ctrl-C."""
    counts, out = folder.path / "proposals.json", folder.path.parent / "out.txt"
    before = Counts.read(counts).over
    with out.open("w") as file, subprocess.Popen(command(*arguments), cwd=ROOT, stdout=file, env=os.environ) as driver:
        while Counts.read(counts).over == before and driver.poll() is None:
            time.sleep(0.05)
        driver.send_signal(signal.SIGINT)
        driver.wait(timeout=120)
    assert driver.returncode == 130, out.read_text()
    return out.read_text()


@pytest.mark.slow
def test_ctrl_c_among_the_proposals_and_resume_keeps_to_the_budget(
    tiny_space: dict[str, object], tmp_path: Path
) -> None:
    proxy = {"rungs": [12], "n_train": 1, "n_reference": 0, "least_reliability": 0.0}
    few = {"proxy": proxy, "stopping": None, "confirm": {"seeds": [1], "n_random": 0}}
    masks = {"family": "layer_module_bits", "modules": MODULES}
    raw = searched_space(tiny_space, n_masks=14, masks=masks, **few) | {"allocations": ["BASELINE-TEAL", "UNIF-ALL"]}
    folder, storage = SweepFolder(tmp_path / "tiny"), ("--storage", tmp_path)
    assert "resume with" in stop_among_proposals(folder, "search", write_space(raw, tmp_path), *storage)
    assert "resume with" in stop_among_proposals(folder, "resume", "tiny", *storage)
    assert folder.stages.keys() == {"shared", "reference", "propose"}
    ran = run("resume", "tiny", "--storage", tmp_path)
    assert ran.code == 0, ran.out + ran.err
    assert json.loads((tmp_path / "tiny" / "proposals.json").read_text())["new"] == 14
