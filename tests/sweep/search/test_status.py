"""Where a search stands, by fabricated folders."""

from pathlib import Path

import pytest

from search_spaces.load import parse_space
from sweep.search.findings import FINDINGS
from sweep.search.mask_log import MaskLog, MaskRecord
from sweep.search.status import search_lines
from sweep.store.counts import Counts
from sweep.store.folder import SweepFolder, create_sweep
from tests.conftest import trials_of
from trainables.selection import SELECTION

PROXY = {"rungs": [12], "n_train": 3, "n_reference": 4}
SEARCH = {
    "masks": {"family": "subset", "modules": ["down_proj"]},
    "n_masks": 9,
    "proxy": PROXY,
    "confirm": {"seeds": [1, 2], "n_chosen": 2, "n_random": 1},
}
TRAIN, CONFIRM = "train, at most 5 trials", "confirm, at most 22 trials"  # (UNIF-ALL and 2 x 5 masks) x 2 seeds


def make(tmp_path: Path, raw: dict[str, object], **search: object) -> SweepFolder:
    raw = raw | {"allocations": ["BASELINE-TEAL", "UNIF-ALL"], "search": SEARCH | search}
    return create_sweep(tmp_path, parse_space(raw, "test"))


@pytest.fixture
def folder(tmp_path: Path, tiny_raw: dict[str, object]) -> SweepFolder:
    return make(tmp_path, tiny_raw)


def test_before_the_first_stage_all_are_to_come_and_a_grid_has_none(
    folder: SweepFolder, tmp_path: Path, tiny_raw: dict[str, object]
) -> None:
    first, then = search_lines(folder)
    assert first == "search: no stage has begun"
    assert then == f"then: shared, 1 trial; reference, at most 8 masks; propose, 9 masks; {TRAIN}; {CONFIRM}"
    assert search_lines(create_sweep(tmp_path, parse_space(tiny_raw | {"name": "grid"}, "test"))) == []


def test_while_masks_are_proposed_they_are_counted(folder: SweepFolder) -> None:
    folder.begin("shared", ["one"])
    folder.begin("propose")
    Counts(new=7, open=2, repeated=3).write(folder.path / "proposals.json")
    now, then = search_lines(folder)
    assert now == "search: propose, stage 3 of 5: 5 of 9 masks done, 2 under way; 3 proposals known and not run"
    assert then == f"then: {TRAIN}; {CONFIRM}"


def test_masks_that_span_the_search_are_counted_in_their_log(folder: SweepFolder, tiny_raw: dict[str, object]) -> None:
    trial, _ = trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "TOP-50"]})
    folder.begin("reference", [trial.name, "another"])
    MaskLog(folder.path / "reference.jsonl").add(MaskRecord(trial, 12, 0.5, 3.0, (0.5,) * 12, 1.0))
    assert search_lines(folder)[0] == "search: reference, stage 2 of 5: 1 of 2 masks done"


def test_a_search_whose_text_cannot_tell_or_that_has_chosen_is_over(folder: SweepFolder) -> None:
    folder.begin("reference", [])
    (folder.path / FINDINGS).touch()
    assert search_lines(folder) == ["search: done; its text cannot tell masks apart, findings.txt has the figures"]
    folder.begin("confirm", ["one"])
    (folder.path / SELECTION).write_text("{}")
    assert search_lines(folder) == ["search: done; selection.json has the chosen masks"]


def test_a_stage_of_training_counts_its_own_trials(folder: SweepFolder, tiny_raw: dict[str, object]) -> None:
    done, failed = (folder.trial(t) for t in trials_of(tiny_raw | {"allocations": ["UNIF-ALL", "TOP-50"]}))
    for trial in (done, failed):
        trial.path.mkdir(parents=True)
    done.checkpoint_path.mkdir()
    (done.checkpoint_path / "meta.json").touch()
    failed.fail("the loss must stay finite")
    folder.begin("train", [done.path.name, failed.path.name, "not-begun"])
    assert search_lines(folder) == ["search: train, stage 4 of 5: 2 of 3 trials done", f"then: {CONFIRM}"]
    folder.begin("confirm", ["not-begun"])
    assert search_lines(folder) == ["search: confirm, stage 5 of 5: 0 of 1 trials done"]


def test_a_stage_that_is_gone_through_again_is_not_the_last(folder: SweepFolder) -> None:
    for stage in ("propose", "train", "propose"):
        folder.begin(stage)
    assert search_lines(folder)[0].startswith("search: train, ")


def test_without_a_proxy_masks_are_trained_as_they_are_proposed(tmp_path: Path, tiny_raw: dict[str, object]) -> None:
    folder = make(tmp_path, tiny_raw, proxy=None)
    folder.begin("propose")
    now, then = search_lines(folder)
    assert now == "search: propose, stage 1 of 3: 0 of 9 masks done, 0 under way"
    assert then == f"then: train, at most 2 trials; {CONFIRM}"
