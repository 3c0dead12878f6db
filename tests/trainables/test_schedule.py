"""How many steps a training has, and how its learning rate goes."""

import pytest

from search_spaces.config import TrainingConfig
from trainables.schedule import learning_rate, steps_per_epoch, total_steps


@pytest.mark.parametrize(
    ("blocks", "batch", "accumulate", "steps"), [(16, 4, 1, 4), (17, 4, 1, 5), (16, 4, 3, 2), (3, 8, 1, 1)]
)
def test_an_epoch_has_a_step_for_every_started_batch(blocks, batch, accumulate, steps):
    training = TrainingConfig(batch_size=batch, gradient_accumulation_steps=accumulate, epochs=3)
    assert steps_per_epoch(blocks, training) == steps
    assert total_steps(blocks, training) == 3 * steps


def rates(total: int, **keys: object) -> list[float]:
    return [learning_rate(step, total, TrainingConfig(lr=1.0, **keys)) for step in range(total)]


def test_a_constant_rate_is_constant():
    assert rates(5) == [1] * 5


def test_warm_up_is_linear_and_reaches_the_peak_once():
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_linear_schedule_goes_evenly_to_zero():
    assert rates(4, schedule="linear") == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_falls_after_the_warm_up_and_ends_near_zero(schedule):
    values = rates(100, schedule=schedule, warmup_steps=10)
    assert values[9] == values[10] == 1
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0 < values[-1] < 0.02


def test_the_cosine_is_half_way_down_in_the_middle():
    assert rates(10, schedule="cosine")[5] == pytest.approx(0.5)


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak():
    assert rates(4, schedule="cosine", warmup_steps=8) == [0.125, 0.25, 0.375, 0.5]
