"""Two sweeps side by side."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from sweep.cli import main
from sweep.store.folder import SweepFolder, create_sweep
from sweep.views.compare import as_text, compare
from tests.conftest import trials_of
from trainables.checkpoint import read_checkpoint
from trainables.trial import report_test, run_trial
from trainables.workbench import Workbench


def finished(raw: dict[str, object], storage: Path, name: str, lr: float) -> SweepFolder:
    """A sweep of two trials whose test reports are there."""
    raw = raw | {"name": name, "training": raw["training"] | {"lr": lr}, "allocations": ["BASELINE-TEAL", "UNIF-ALL"]}
    folder = create_sweep(storage, parse_space(raw, "test"))
    for config in trials_of(raw):
        bench = Workbench(config.model, config.corpus, "cpu", open_test=True)
        trial = folder.trial(config)
        trial.start(config)
        trial.store(report_test(bench, run_trial(bench, config)))
    return folder


def test_what_two_sweeps_share_is_compared_by_pairs(
    tiny_raw: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (finished(tiny_raw, tmp_path, name, lr) for name, lr in (("slow", 1e-4), ("fast", 1e-2)))
    teal, biases = compare(first, second)
    assert (teal.allocation, teal.difference) == ("BASELINE-TEAL", (0.0, 0.0, 0.0))
    assert biases.difference.value == pytest.approx(biases.kl_nats[1] - biases.kl_nats[0], rel=1e-9)
    assert biases.difference.low <= biases.difference.value <= biases.difference.high != 0
    assert main(["compare", "slow", "fast", "--storage", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"UNIF-ALL        60%  seed 42  KL {biases.kl_nats[0]:.4f} -> {biases.kl_nats[1]:.4f}, ")
    assert lines[-1].startswith("slow -> fast, test split")
    main(["compare", "slow", "fast", "--storage", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)[1]["difference"] == biases.difference._asdict()


def test_trials_that_differ_in_how_levels_were_chosen_are_pairs_of_their_own(
    tiny_raw: dict[str, object], tmp_path: Path
) -> None:
    folders = [finished(tiny_raw, tmp_path, name, 1e-3) for name in ("one", "two")]
    for folder in folders:
        for trial in list(folder.trials):
            fisher = trial.config.model_copy(update={"level_method": "fisher"})
            checkpoint = read_checkpoint(trial.checkpoint_path)
            folder.trial(fisher).start(fisher)
            folder.trial(fisher).store(replace(checkpoint, meta=checkpoint.meta.model_copy(update={"config": fisher})))
            folder.trial(fisher).add_test(read_checkpoint(trial.checkpoint_path))
    pairs = compare(*folders)
    assert sorted((pair.allocation, pair.levels) for pair in pairs) == [
        (name, levels) for name in ("BASELINE-TEAL", "UNIF-ALL") for levels in ("fisher", "uniform")
    ]
    assert "60%  fisher  seed 42" in as_text(pairs, "one", "two")


def test_sweeps_that_share_no_scored_trial_are_refused(tiny_raw: dict[str, object], tmp_path: Path) -> None:
    folders = [create_sweep(tmp_path, parse_space(tiny_raw | {"name": name}, "test")) for name in "ab"]
    with pytest.raises(SponError, match=r"must share a scored trial, .* but a and b do not"):
        compare(*folders)
