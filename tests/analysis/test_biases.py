import pytest
import torch

from analysis.biases import describe_biases
from search_spaces.sites import Site


def test_moments_are_those_of_a_known_vector() -> None:
    (found,) = describe_biases({Site(0, "down_proj"): torch.tensor([1.0, -1.0, 3.0, -3.0])})
    assert (found.norm, found.mean, found.max_abs) == (pytest.approx(20**0.5), 0.0, 3.0)
    assert found.sd == pytest.approx(5**0.5)
    assert found.positive_fraction == 0.5
    assert found.excess_kurtosis == pytest.approx(41 / 25 - 3)


def test_a_gaussian_has_no_excess_kurtosis_however_small_it_is() -> None:
    vector = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 1e-6
    (found,) = describe_biases({Site(0, "down_proj"): vector})
    assert found.excess_kurtosis == pytest.approx(0, abs=0.05)


def test_sites_are_ranked_by_norm() -> None:
    biases = {Site(layer, "down_proj"): torch.ones(4) * size for layer, size in enumerate((2.0, 3.0, 1.0))}
    assert [found.rank for found in describe_biases(biases)] == [2, 1, 3]
