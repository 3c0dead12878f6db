"""Workers that score trials on the test split, with others in their stead."""

import pytest
import ray

from sweep import report


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
