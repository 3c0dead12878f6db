import pytest

from trainables import activity
from trainables.activity import Activity, Throttle, listening, printer, tell, track
from trainables.workbench import Workbench


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (Activity("loading the model"), "loading the model"),
        (Activity("training", 7, 24, "step", "loss 0.0412"), "training, step 7 of 24, loss 0.0412"),
        (Activity("cleaning Wikipedia", 36, unit="article"), "cleaning Wikipedia, article 36"),
        (Activity("fetching", note="93 MB"), "fetching, 93 MB"),
    ],
)
def test_an_activity_reads_well(said, text):
    assert str(said) == text


def test_without_a_listener_nothing_happens():
    tell("nothing")
    assert list(track([1, 2], "nothing", "item")) == [1, 2]


def test_a_listener_hears_what_is_told_while_it_listens_and_then_the_one_before():
    outer, inner = [], []
    with listening(outer.append):
        with listening(inner.append):
            tell("a", 1, 2)
        tell("b")
    tell("c")
    assert (inner, outer) == ([Activity("a", 1, 2)], [Activity("b")])
    assert activity._listener is None


def test_tracked_items_are_counted_when_they_are_done():
    heard = []
    with listening(heard.append):
        for item in track([10, 20], "adding", "number"):
            heard.append(item)
    first, second = Activity("adding", 1, 2, "number"), Activity("adding", 2, 2, "number")
    assert heard == [Activity("adding", 0, 2, "number"), 10, first, 20, second]


def test_what_has_no_length_has_no_total():
    heard = []
    with listening(heard.append):
        assert list(track(iter("ab"), "reading", "letter")) == ["a", "b"]
    assert [one.total for one in heard] == [None] * 3


def test_a_throttle_passes_on_every_change_and_little_else(monkeypatch):
    now, heard = 0.0, []
    monkeypatch.setattr(activity.time, "monotonic", lambda: now)
    throttle = Throttle(heard.append, 1.0)
    for step in range(1, 31):
        now = step / 10
        throttle(Activity("training", step))
    throttle(Activity("validation"))
    throttle(Activity("training", 31))
    assert [(one.what, one.done) for one in heard] == [
        *[("training", step) for step in (1, 11, 21)],
        ("validation", 0),
        ("training", 31),
    ]


def test_a_printer_prints_a_line_an_activity(capsys):
    with listening(printer()):
        list(track(range(100), "counting", "number"))
        tell("resting")
    assert capsys.readouterr().err == "counting, number 0 of 100\nresting\n"


def test_a_trial_says_all_that_it_does(tiny_bench: Workbench, tiny_trial):
    from trainables.trial import run_trial

    heard: list[Activity] = []
    with listening(heard.append):
        run_trial(tiny_bench, tiny_trial)
    said = list(dict.fromkeys(one.what for one in heard))
    assert said[-2:] == ["training", "validation"]
    steps = [one for one in heard if one.what == "training"]
    assert [one.done for one in steps] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert all(one.total == 8 for one in steps)
    assert all(one.note.startswith("loss ") for one in steps if one.done not in (0, 4))
