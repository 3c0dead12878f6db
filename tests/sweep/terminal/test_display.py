"""What the terminal says, with a clock that is moved by hand and no second thread."""

import io
import itertools
import json
import os
import pty
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from sweep.terminal.display import ACTIVITY, Display, finish, follow, say
from sweep.terminal.live import rendered
from sweep.terminal.view import Standing, short, time_left
from trainables.activity import Activity, tell
from trainables.listener import Heard

TRIAL = "TOP-50_s0.50_seed42_0123456789"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A stage that stands still."""

    def __init__(self) -> None:
        self.heard_from: list[tuple[str, int]] = []

    def standing(self) -> Standing:
        return Standing("2 of 12 trials done", 0.25, 540.0, ("down_proj@0.50: TOP-50, KL 0.03 nats",))

    def heard(self, who: str, activity: Activity, now: float) -> None:
        self.heard_from.append((who, activity.done))


class Terminal(io.StringIO):
    """A terminal of 100 columns."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second thread moves a display, unless a test says so."""
    monkeypatch.setattr("sweep.terminal.display._TICK_SECONDS", 1000.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(out: io.StringIO, clock: Clock):
    """A plain display that is moved by hand."""
    with Display(out, clock) as display:
        yield display


def wait(display: Display, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        display.ask()
        display.tick()
        display.write()


def seconds_of(out: io.StringIO) -> list[int]:
    stamps = [re.match(r" *(\d+):(\d\d)  ", line) for line in out.getvalue().splitlines()]
    return [60 * int(stamp[1]) + int(stamp[2]) for stamp in stamps if stamp]


def test_it_is_never_silent_for_ten_seconds(display: Display, clock: Clock, out: io.StringIO) -> None:
    tell("starting Ray")
    wait(display, clock, 30)
    say("grid: 12 trials")  # a sign of life, too
    display.follow(Stage())
    wait(display, clock, 70)
    assert "  0:30  grid: 12 trials" in out.getvalue().splitlines()
    times = seconds_of(out)
    assert len(times) == 1 + 4 + 1 + 10  # and it does not talk more than it must
    assert times[0] == 0
    assert times[-1] >= 90
    assert max(b - a for a, b in itertools.pairwise(times)) < 10


def test_what_is_done_for_the_first_time_is_a_line(display: Display, out: io.StringIO) -> None:
    tell("fetching", note="93 MB")
    tell("converting")
    tell("fetching", note="28 MB")
    assert out.getvalue() == "  0:00  fetching, 93 MB\n  0:00  converting\n"


def test_a_line_on_a_stage_has_its_workers_and_the_time_left(display: Display, clock: Clock, out: io.StringIO) -> None:
    training = Activity("training", 7, 24, "step", "loss 0.0412")
    stage = Stage()
    display.follow(stage)
    with display.asking(lambda: Heard({TRIAL: training})):
        wait(display, clock, 7)
    assert out.getvalue() == (
        "  0:07  2 of 12 trials done; TOP-50_s0.50_seed42: training, step 7 of 24, loss 0.0412; about 9 min left\n"
    )
    assert set(stage.heard_from) == {(TRIAL, 7)}


def test_news_of_workers_are_lines_once(display: Display, clock: Clock, out: io.StringIO) -> None:
    news = [(TRIAL, Activity("loading the model")), (TRIAL, Activity("training", 0, 8, "step"))]
    with display.asking(lambda: Heard({}, list(news))):
        wait(display, clock, 3)
    assert out.getvalue().splitlines() == [
        "  0:01  TOP-50_s0.50_seed42: loading the model",
        "  0:01  TOP-50_s0.50_seed42: training, step 0 of 8",
    ]


def test_a_worker_that_was_stopped_with_its_stage_is_not_shown_in_the_next(display: Display, clock: Clock) -> None:
    stopped, other = Activity("mask", 4, 4, "batch"), Activity("training", 1, 16, "step")
    display.follow(Stage())
    display._ask = lambda: Heard({TRIAL: stopped})
    display.ask()
    assert [what for _, what in display.view().workers] == ["mask, batch 4 of 4"]
    display.follow(None)
    display.follow(Stage())
    display.ask()
    assert display.view().workers == ()
    display._ask = lambda: Heard({TRIAL: other})
    display.ask()
    assert [what for _, what in display.view().workers] == ["training, step 1 of 16"]


def test_what_says_not_how_far_it_is_says_how_long_it_takes_though_no_ear_answers(
    display: Display, clock: Clock, out: io.StringIO
) -> None:
    tell("converting")
    with display.asking(lambda: None):
        wait(display, clock, 7)
    assert out.getvalue().splitlines()[-1] == "  0:07  converting, 7 s"


def test_an_ear_that_takes_long_silences_nobody(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.terminal.display._TICK_SECONDS", 0.01)
    monkeypatch.setattr("sweep.terminal.display.QUIET_SECONDS", 0.05)
    asked, answer, enough = threading.Event(), threading.Event(), time.monotonic() + 10

    def ask() -> None:
        asked.set()
        answer.wait(10)

    with Display(out) as display, display.asking(ask):
        assert asked.wait(10)
        while len(out.getvalue().splitlines()) < 3 and time.monotonic() < enough:
            time.sleep(0.01)
        answer.set()
    assert len(out.getvalue().splitlines()) >= 3


def test_after_the_end_nothing_is_shown(out: io.StringIO, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.terminal.display._TICK_SECONDS", 0.01)
    with Display(out, clock):
        tell("drawing the board")
        finish()
        shown = out.getvalue()
        clock.now += 100
        time.sleep(0.05)
        tell("nothing")
        follow(Stage())
    assert out.getvalue() == shown == "  0:00  drawing the board\n"


def test_it_stops_at_a_fault(out: io.StringIO, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Display(out, clock) as display:
        raise KeyboardInterrupt
    assert not any(thread.is_alive() for thread in display._threads)
    say("stopped")
    assert (out.getvalue(), capsys.readouterr().out) == ("", "stopped\n")


def test_the_folder_has_what_is_shown_while_the_driver_lives(display: Display, clock: Clock, tmp_path: Path) -> None:
    display.keep_in(tmp_path)
    display.follow(Stage())
    with display.asking(lambda: Heard({TRIAL: Activity("training", 7, 24, "step")})):
        wait(display, clock, 3)
    kept = json.loads((tmp_path / ACTIVITY).read_text())
    assert (kept["text"], kept["left"]) == ("2 of 12 trials done", "about 9 min left")
    assert kept["workers"] == [["TOP-50_s0.50_seed42", "training, step 7 of 24"]]
    assert abs(kept["at"] - time.time()) < 5
    display.close()
    assert not (tmp_path / ACTIVITY).exists()


def test_the_file_is_written_when_it_changes_and_before_it_looks_old(
    display: Display, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr("sweep.terminal.display.write_whole", lambda file, text: written.append(file))
    display.keep_in(tmp_path)
    display.follow(Stage())
    wait(display, clock, 30)
    assert len(written) == 3


def test_a_terminal_gets_a_bar_and_events_above_it_and_is_left_as_it_was(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Display(terminal, clock) as display:
        display.follow(Stage())
        with display.asking(lambda: Heard({TRIAL: Activity("training", 7, 24, "step")})):
            wait(display, clock, 2)
        say("done   [TOP-50]")
    text = terminal.getvalue()
    for part in ("━", "2 of 12 trials done", "about 9 min left", "training, step 7 of 24", "best", "done   [TOP-50]"):
        assert part in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_workers_that_have_no_line_are_counted(display: Display, clock: Clock) -> None:
    heard = Heard({f"trial-{n}": Activity("training", n, 24, "step") for n in range(64)})
    with display.asking(lambda: heard):
        display.ask()
        view, screen = display.view(), io.StringIO()
    Console(file=screen, width=100).print(rendered(view, 10))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 12
    assert "and 54 more" in lines[-1]
    assert view.line.endswith("trial-3: training, step 3 of 24; 60 more")


def test_time_is_in_words_and_a_name_without_its_hash() -> None:
    seconds, words = (None, 0.2, 45, 540, 9000), ("", "1 s", "45 s", "9 min", "2.5 h")
    assert [time_left(one) for one in seconds] == ["", *(f"about {word} left" for word in words[1:])]
    assert short("mask-1_s0.60_seed1_0123456789_8-32") == "mask-1_s0.60_seed1_8-32"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals")
def test_a_stray_print_does_not_tear_the_live_display(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        with Display(terminal, clock) as display:
            display.tick()
            print("a stray line")
            display.tick()
        text = os.read(master, 65536).decode()
    os.close(master)
    assert re.search(r"\x1b\[2K(\x1b\[[0-9;]*m)*a stray line", text)  # the live lines are cleared first


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Display(terminal, clock):
        tell("starting Ray")
    assert terminal.getvalue() == "  0:00  starting Ray\n"
