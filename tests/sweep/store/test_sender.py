"""The thread that tells MLflow, with a tracker whose answers the test holds back."""

import threading
from pathlib import Path

import pytest

from sweep.store import tracking
from sweep.store.folder import TrialFolder
from sweep.store.tracking import Sender

ONE, OTHER = TrialFolder(Path("one")), TrialFolder(Path("other"))


class Held:
    """A tracker that answers when it is let go."""

    def __init__(self) -> None:
        self.asked, self.begun, self.let_go = [], threading.Event(), threading.Event()

    def sync(self, trial: TrialFolder) -> bool:
        self.asked.append(trial)
        self.begun.set()
        self.let_go.wait()
        return True


@pytest.fixture
def held() -> Held:
    return Held()


def test_nobody_waits_for_mlflow_and_events_of_a_trial_that_waits_go_together(held: Held) -> None:
    sends = Sender(held)
    sends.send(ONE)
    held.begun.wait()
    for trial in (OTHER, OTHER, ONE, OTHER, ONE):
        sends.send(trial)
    held.let_go.set()
    sends.close()
    assert held.asked == [ONE, OTHER, ONE]


def test_a_trial_is_sent_again_after_it_was(held: Held) -> None:
    held.let_go.set()
    sends = Sender(held)
    sends.send(ONE)
    while not sends._jobs[ONE.path].done():
        pass
    sends.send(ONE)
    sends.close()
    assert held.asked == [ONE, ONE]


def test_the_end_does_not_wait_for_ever(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_LAST_SECONDS", 0.01)
    sends = Sender(held)
    sends.send(ONE)
    held.begun.wait()
    sends.send(OTHER)
    threading.Timer(0.1, held.let_go.set).start()
    sends.close()
    assert held.asked == [ONE]


def test_a_fault_of_the_disk_comes_out_at_the_end() -> None:
    class Full:
        def sync(self, trial: TrialFolder) -> bool:
            raise OSError("no space left on device")

    sends = Sender(Full())
    sends.send(ONE)
    with pytest.raises(OSError, match="no space left"):
        sends.close()
