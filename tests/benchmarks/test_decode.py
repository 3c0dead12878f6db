import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks.decode import SPARSITIES, break_even, gather, weighted_sum
from trainables.teal import keep_above


@pytest.mark.parametrize("product", [gather, weighted_sum])
def test_a_sparse_product_is_the_dense_one_of_the_sparsified_input(product):
    torch.manual_seed(0)
    x, weight = torch.randn(48), torch.randn(32, 48)
    for threshold in (0.0, 0.7, 9.0):
        expected = F.linear(keep_above(x, threshold), weight)
        torch.testing.assert_close(product(x, weight.T.contiguous(), threshold), expected)


def test_the_break_even_is_where_the_line_crosses_one():
    ratios = [0.5, 0.8, 1.2, 1.5, 1.9, 2.5, 3.5, 5.0]
    assert len(ratios) == len(SPARSITIES)
    assert break_even(ratios) == "35%"
    assert break_even([1.1] * 8) == "below 0%"
    assert break_even([0.9] * 8) == "never"
