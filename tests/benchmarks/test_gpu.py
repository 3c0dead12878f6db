from tests.benchmarks import gpu


def test_the_whole_benchmark_runs_on_a_tiny_shape(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "WAYS", ("eager",))
    monkeypatch.setenv("SPON_CACHE", str(tmp_path))
    found = gpu.measure(["tiny"])
    assert found["shapes"]["tiny"]["repeats_exactly"]
    assert {row["way"] for row in found["shapes"]["tiny"]["steps"]} == {"eager", "plain"}
    gpu.show(found)
    assert "A step of 8 x 128 tokens" in capsys.readouterr().out
