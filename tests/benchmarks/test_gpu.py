import json

import torch

from tests.benchmarks import gpu


def test_the_whole_benchmark_runs_on_a_tiny_shape(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "WAYS", ("eager",))
    monkeypatch.setenv("SPON_CACHE", str(tmp_path))  # put back when the test ends
    gpu.main(["--shapes", "tiny", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["shapes"]["tiny"]
    assert found["repeats_exactly"]
    assert {row["way"] for row in found["steps"]} == {"eager", "plain"}
    assert "A step of 8 x 128 tokens" in capsys.readouterr().out


def test_a_recorded_pass_is_not_used_without_a_gpu():
    assert gpu.RandomBench("tiny").trainer("topk").recorded is None or torch.cuda.is_available()
