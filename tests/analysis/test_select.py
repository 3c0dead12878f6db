import errno
import re
from pathlib import Path

import pytest

from analysis.cli import command_line, main
from analysis.select import best_of_sweep, chosen_by_search, from_directories
from search_spaces.errors import SponError
from tests.conftest import trials_of
from tests.swept import tracking_in
from trainables.checkpoint import write_checkpoint
from trainables.selection import Selected, Selection, write_selection
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


def test_the_best_of_each_plan_come_first_and_have_biases(storage: Path) -> None:
    assert all(checkpoint.biases for checkpoint in best_of_sweep(storage, "tiny", 9, "val_kl_nats"))
    chosen = best_of_sweep(storage, "tiny", 1, "val_kl_nats")
    assert len({checkpoint.meta.config.plan_label for checkpoint in chosen}) == len(chosen) == 2
    down = [c for c in best_of_sweep(storage, "tiny", 2, "val_kl_nats") if "down_proj" in c.meta.config.plan_label]
    assert down[0].meta.metrics["val_kl_nats"] <= down[1].meta.metrics["val_kl_nats"]


def test_a_search_chose_these_in_every_seed(storage: Path, tmp_path: Path) -> None:
    trials = sorted((storage / "tiny" / "trials").glob("*/checkpoint"))
    chosen = [trial for trial in trials if "TOP-50" in str(trial)]
    write_selection(selection(chosen), tmp_path)
    assert [c.meta.config.allocation for c in chosen_by_search(tmp_path / "selection.json")] == ["TOP-50"]


def selection(chosen: list[Path]) -> Selection:
    """One chosen mask with these checkpoints, and a named one that has none."""
    figures = {"val_kl_nats": 0.1, "test_kl_nats": 0.1, "test_nll_nats": 3.0, "test_ppl": 20.0}
    common = {"sites": (), "n_spon_params": 0, "test_kl_recovered": None, "test_ppl_recovered": None, **figures}
    places = tuple(str(place) for place in chosen)
    masks = (
        Selected(name="mine", role="chosen", seeds=(1,), checkpoints=places, **common),
        Selected(name="TEAL", role="named", seeds=(), checkpoints=("gone",), **common),
    )
    return Selection(
        sweep="tiny",
        plan="p",
        teal_test_kl_nats=0.1,
        teal_test_ppl=20.0,
        dense_test_ppl=19.0,
        confidence=0.95,
        bootstrap_over="blocks",
        masks=masks,
        differences=(),
        best_rival={"mine": None},
    )


def test_a_trial_without_biases_is_not_examined(storage: Path) -> None:
    (teal,) = (storage / "tiny" / "trials").glob("BASELINE*/checkpoint")
    with pytest.raises(SponError, match="must have biases, but BASELINE-TEAL"):
        from_directories([teal])


@pytest.mark.parametrize(
    ("chosen", "arguments", "said"),
    [
        ("--checkpoint {kept}", "--only pca,nosuch", "an analysis must be one of perplexity, shift"),
        ("--checkpoint {kept}", "--only cross", "a comparison must have two checkpoints, but got 1 (at --only cross)"),
        ("--checkpoint {kept}", "--blocks 1", "an interval must have at least 2 blocks, but got 1 (at --blocks)"),
        ("--checkpoint {kept}", "--prompts nosuch.yaml", "prompts must be a YAML file, but No such file"),
        ("--checkpoint .", "", "meta.json is missing"),
        ("--sweep tiny", "--top 0", "top must be at least 1, but got 0 (at --top)"),
        ("--sweep tiny", "--by accuracy", "val_kl_nats"),
        ("--sweep nosuch", "", "error: a sweep must have a finished trial"),
        ("--run nosuch", "--mlflow-uri {uri}", "error: a run must be in MLflow, but nosuch"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    storage: Path, tmp_path: Path, chosen: str, arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tracking_in(tmp_path) if "{uri}" in arguments else ""
    kept = next((storage / "tiny" / "trials").glob("TOP-50*/checkpoint"))
    words = f"{chosen} {arguments}".format(kept=kept, uri=uri).split()
    capsys.readouterr()  # what MLflow says of its new tables
    assert main(["interpret", "--storage", str(storage), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_storage_that_is_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("a file where the directory should be")
    assert main(["interpret", "--run", "some", "--storage", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert "a run must be in MLflow, but some: [Errno 17] File exists" in error
    assert error.count("\n") == 1


def test_an_option_that_is_repeated_adds_up() -> None:
    words = "interpret --checkpoint a --checkpoint b c --only worth --only shift,cross"
    arguments = command_line().parse_args(words.split())
    assert arguments.checkpoint == [Path("a"), Path("b"), Path("c")]
    assert arguments.only == ["worth", "shift", "cross"]


def test_a_disk_that_fills_up_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / "report.html"))

    monkeypatch.setattr("analysis.report.publish.publish", full)
    assert main(["figures", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: the disk must have room for the output, but \d+ MiB are free \(at .*\)\n", error)
