"""``selection.json``: read as it was written, and nothing else is read."""

import json

import pytest

from search_spaces.errors import SponError
from trainables.selection import Difference, Selected, Selection, read_selection, write_selection
from trainables.statistics import Interval


def selected(**changes: object) -> Selected:
    given = {
        "name": "mask-1",
        "role": "chosen",
        "sites": ("0.o_proj", "1.down_proj"),
        "n_spon_params": 64,
        "seeds": (1, 2),
        "checkpoints": ("confirm/a", "confirm/b"),
        "val_kl_nats": 0.1,
        "test_kl_nats": 0.12,
        "test_nll_nats": 3.0,
        "test_ppl": 20.1,
        "test_kl_recovered": Interval(0.4, 0.3, 0.5),
        "test_ppl_recovered": None,
    }
    return Selected(**(given | changes))


@pytest.fixture
def selection() -> Selection:
    difference = Difference(
        chosen="mask-1",
        against="TOP-50",
        kl_nats=Interval(-0.02, -0.03, -0.01),
        nll_nats=Interval(0.0, -0.01, 0.01),
        kl_nats_by_seed=(-0.01, -0.03),
    )
    return Selection(
        sweep="s",
        plan="down_proj@0.60 topk",
        teal_test_kl_nats=0.2,
        teal_test_ppl=25.0,
        dense_test_ppl=18.0,
        confidence=0.975,
        bootstrap_over="documents",
        masks=(selected(), selected(name="TOP-50", role="named")),
        differences=(difference,),
        best_rival={"mask-1": "TOP-50", "mask-2": None},
    )


def test_a_selection_survives_being_written_and_read(selection, tmp_path):
    file = write_selection(selection, tmp_path)
    assert file == tmp_path / "selection.json"
    assert read_selection(file) == selection


@pytest.mark.parametrize("changes", [{"schema_version": 1}, {"more": 1}, {"differences": None}], ids=str)
def test_a_selection_of_another_schema_is_refused_with_its_path(selection, tmp_path, changes):
    file = write_selection(selection, tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(SponError, match=r"must be the selection\.json of a search, but .*\(at .*/selection\.json\)$"):
        read_selection(file)
