from pathlib import Path

import pytest

from analysis.cli import main
from analysis.select import best_of_sweep
from search_spaces.errors import SponError
from tests.conftest import trials_of
from trainables.checkpoint import write_checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench


@pytest.fixture(scope="module")
def storage(tiny_space: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one sweep of two plans, as ``sweep`` lays it out."""
    storage = tmp_path_factory.mktemp("storage")
    trials = trials_of(tiny_space | {"allocations": ["BASELINE-TEAL", "TOP-50", "UNIF-ALL", "ATTN-ONLY"]})
    bench = Workbench(trials[0].model, trials[0].corpus, "cpu")
    for trial in trials:
        place = storage / "tiny" / "trials" / trial.name / "checkpoint"
        place.mkdir(parents=True)
        write_checkpoint(run_trial(bench, trial), place)
    return storage


def test_the_best_of_each_plan_come_first(storage: Path) -> None:
    chosen = best_of_sweep(storage, "tiny", 1, "val_kl_nats")
    assert len({checkpoint.meta.config.plan.label for checkpoint in chosen}) == len(chosen) == 2
    down = [c for c in best_of_sweep(storage, "tiny", 2, "val_kl_nats") if "down_proj" in c.meta.config.plan.label]
    assert down[0].meta.metrics["val_kl_nats"] <= down[1].meta.metrics["val_kl_nats"]


def test_teal_alone_has_no_biases_to_look_at(storage: Path) -> None:
    assert all(checkpoint.biases for checkpoint in best_of_sweep(storage, "tiny", 9, "val_kl_nats"))


def test_an_unknown_metric_lists_the_known_ones(storage: Path) -> None:
    with pytest.raises(SponError, match="val_kl_nats"):
        best_of_sweep(storage, "tiny", 1, "accuracy")


def test_a_sweep_without_trials_is_one_line(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpret", "--sweep", "nosuch", "--storage", str(storage)]) == 2
    assert "error: a sweep must have a finished trial" in capsys.readouterr().err


def test_a_broken_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interpret", "--checkpoint", str(tmp_path)]) == 2
    assert "meta.json is missing" in capsys.readouterr().err
