"""``selection.json``: read as it was written, and nothing else is read."""

import json
from collections.abc import Callable
from pathlib import Path

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


@pytest.fixture
def edited(selection: Selection, tmp_path: Path) -> Callable[..., Path]:
    """The file of a selection after a change of its JSON."""

    def edit(**changes: object) -> Path:
        file = write_selection(selection, tmp_path)
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return file

    return edit


def test_a_selection_survives_being_written_and_read(selection, tmp_path):
    file = write_selection(selection, tmp_path)
    assert file == tmp_path / "selection.json"
    assert read_selection(file) == selection


def test_intervals_have_their_names_after_reading(selection, tmp_path):
    plan = read_selection(write_selection(selection, tmp_path))
    assert plan.differences[0].kl_nats.low == -0.03
    assert plan.masks[0].test_kl_recovered.high == 0.5


def test_a_selection_that_is_not_there_is_refused_with_its_path(tmp_path):
    with pytest.raises(SponError, match=r"must be the selection\.json of a search, but .*\(at .*/selection\.json\)"):
        read_selection(tmp_path / "selection.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sweep": "s"}'])
def test_what_is_no_selection_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "selection.json"
    file.write_text(text)
    with pytest.raises(SponError, match=r"must be the selection\.json of a search") as caught:
        read_selection(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"schema_version": 1}, {"more": 1}, {"plans": [{"plan": "a"}]}], ids=str)
def test_a_selection_of_another_schema_is_refused(edited, changes):
    with pytest.raises(SponError, match=r"must be the selection\.json of a search"):
        read_selection(edited(**changes))


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="'chosen', 'named' or 'control'"):
        selected(role="other")
