"""When a pass is recorded and what it then reads; torch's own part of it is seen by ``test_on_gpu``."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from search_spaces.config import TrainingConfig
from search_spaces.sites import Site
from trainables.model import graph
from trainables.model.graph import RecordedPass
from trainables.training import Trainer


class FakeGraph:
    """Counts how often a recording is played."""

    played = 0

    def replay(self) -> None:
        FakeGraph.played += 1


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass


@contextmanager
def _block(*of: object, **options: object) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGraph.played = 0
    stand_ins = {"CUDAGraph": FakeGraph, "Stream": FakeStream, "current_stream": FakeStream}
    for name, value in (stand_ins | {"graph": _block, "stream": _block}).items():
        monkeypatch.setattr(graph.torch.cuda, name, value)


def test_a_pass_is_taken_twice_and_recorded_at_the_third_call_for_each_number_of_rows():
    seen: list[Tensor] = []

    def run(rows: Tensor, share: Tensor) -> Tensor:
        seen.append(rows)
        return rows.sum() * share

    recorded, half = RecordedPass(), torch.tensor(0.5)
    for call in range(5):
        recorded(run, torch.arange(4) + call, half)
    recorded(run, torch.arange(2), half)
    assert [len(rows) for rows in seen] == [4, 4, 4, 2]
    assert FakeGraph.played == 3
    assert seen[2].tolist() == [4, 5, 6, 7]  # the recording reads this tensor: it holds the rows of the last call


def test_a_trainer_is_gone_with_its_memory_when_its_name_is(tiny_bench, tiny_trial):
    training = TrainingConfig(batch_size=4, epochs=1)
    trainer = Trainer(tiny_bench, tiny_trial.plan, tuple(map(Site.parse, tiny_trial.sites)), training)
    trainer.recorded = RecordedPass()
    trainer.train_until(3)
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()
