import torch

from tests.benchmarks.decode import SHAPES, SPARSITIES, measure


def test_every_product_is_timed(monkeypatch):
    monkeypatch.setattr("tests.benchmarks.decode._COPIES_BYTES", 2**20)
    monkeypatch.setattr("tests.benchmarks.decode._ROUNDS", 1)
    assert set(measure(*SHAPES[0], torch.float32)) == {"dense", "biased", *map(str, SPARSITIES)}
