import pickle

import pytest

from sweep.search.mask_log import MaskLog, MaskRecord
from tests.sweep.search.fabricated import trials_of

TRIALS = trials_of("UNIF-ALL", "TOP-50", "BOTTOM-50")


def record(place, blocks=8, kl=0.25):
    return MaskRecord(TRIALS[place], blocks, kl, 3.5, (kl,) * blocks, seconds=0.125)


@pytest.fixture
def log(tmp_path):
    return MaskLog(tmp_path / "masks.jsonl")


def test_what_one_process_adds_another_reads_a_record_a_rung(log):
    assert log.records == {}
    log.add(record(0, blocks=2))
    log.add(record(0, blocks=8))
    known = {(TRIALS[0].identity, blocks): record(0, blocks) for blocks in (2, 8)}
    assert log.records == MaskLog(log.path).records == known


def test_a_line_that_was_cut_short_is_scored_again_and_spoils_no_other(log):
    log.add(record(0))
    log.path.write_text(log.path.read_text()[:-9])
    MaskLog(log.path).add(record(1))
    MaskLog(log.path).add(record(0))
    assert MaskLog(log.path).on(8) == [record(1), record(0)]


def test_a_record_is_not_written_twice(log):
    log.add(record(0))
    log.add(record(0, kl=0.75))
    MaskLog(log.path).add(record(0, kl=0.75))
    assert len(log.path.read_text().splitlines()) == 1
    assert log.on(8) == [record(0)]


def test_the_masks_of_a_rung_come_in_the_order_in_which_they_were_scored(log):
    for place, blocks in [(2, 8), (0, 2), (0, 8), (1, 8)]:
        log.add(record(place, blocks))
    assert log.on(8) == MaskLog(log.path).on(8) == [record(2), record(0), record(1)]


def test_a_pickled_log_reads_its_file_anew(log):
    log.add(record(0))
    copy = pickle.dumps(log)
    MaskLog(log.path).add(record(1))
    assert len(copy) < 1000
    assert len(pickle.loads(copy).records) == 2
