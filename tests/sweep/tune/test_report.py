"""Workers that score trials on the test split, with others in their stead."""

from types import SimpleNamespace

import pytest
import ray

from search_spaces.trial import TrialConfig
from sweep.tune import report


def test_trials_of_one_plan_are_not_read_side_by_side(tiny_trial: TrialConfig) -> None:
    plans = [tiny_trial.plan.model_copy(update={"levels": {"0.down_proj": level}}) for level in (0.5, 0.6)]
    pairs = [(0, "a"), (0, "b"), (0, "c"), (1, "d"), (1, "e")]
    trials = [SimpleNamespace(config=SimpleNamespace(plan=plans[plan]), name=name) for plan, name in pairs]
    assert [trial.name for trial in report._by_turns(trials)] == ["a", "d", "b", "e", "c"]


@pytest.mark.ray
def test_a_reader_that_has_no_place_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_checkpoint", lambda trial: trial)
    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)

    @ray.remote(num_cpus=1)
    class Reader:
        def report(self, checkpoint: str) -> str:
            return checkpoint.upper()

    try:
        readers = [Reader.remote(), Reader.remote()]  # as where the node of one has gone
        assert sorted(report._tested(readers, ["a", "b", "c"])) == [("a", "A"), ("b", "B"), ("c", "C")]
    finally:
        ray.shutdown()
