import torch

from tests.benchmarks.decode import SHAPES, SPARSITIES, break_even, measure


def test_the_break_even_is_where_the_line_crosses_one():
    ratios = [0.5, 0.8, 1.2, 1.5, 1.9, 2.5, 5.0]
    assert len(ratios) == len(SPARSITIES)
    assert break_even(ratios) == "35%"
    assert break_even([1.1] * 7) == "any"
    assert break_even([0.9] * 7) == "never"


def test_every_product_is_timed(monkeypatch):
    monkeypatch.setattr("tests.benchmarks.decode._COPIES_BYTES", 2**20)
    found = measure(*SHAPES[0], torch.float32, rounds=1)
    assert set(found) == {"dense", "biased", *map(str, SPARSITIES)}
