"""The product's loss and gradients are plain's: every optimisation of a step at once."""

import pytest
import torch

from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from tests.benchmarks.plain import Plain
from trainables.loss import linear_kl
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.workbench import Workbench

SITES = (Site(0, "down_proj"), Site(1, "o_proj"), Site(1, "down_proj"))


@pytest.mark.parametrize("sites", [SITES, SITES[1:]], ids=["from the first layer", "from the second layer"])
def test_the_loss_and_the_gradients_are_those_of_plain(tiny_bench: Workbench, sites: tuple[Site, ...]) -> None:
    model, tokens = tiny_bench.model, tiny_bench.blocks("calibration").tokens
    plain, biases = Plain(model, sites, 0.5), SponBiases(model, sites, "output_bias")
    for position, site in enumerate(sites):
        start = torch.randn(32, generator=torch.Generator().manual_seed(position)) / 10
        plain.biases[site].data.copy_(start)
        biases.vectors[site].data.copy_(start)
    expected = plain.loss(tokens)
    expected.backward()
    teacher = tiny_bench.teacher("calibration")
    levels = {str(site): 0.5 for site in sites}
    plan = TrialPlan(levels=levels, rule="topk", tokens="all", calibration_blocks=0)
    with sparsified(model, plan, {}, biases):
        hidden = model.hidden(tokens).flatten(0, 1)
        loss = linear_kl(hidden, model.head, teacher.mean_row.flatten(0, 1), teacher.entropy.flatten())
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for site in sites:
        torch.testing.assert_close(biases.vectors[site].grad, plain.biases[site].grad, rtol=1e-3, atol=1e-6)


def test_a_step_of_plain_lowers_its_loss(tiny_bench: Workbench) -> None:
    tokens = tiny_bench.blocks("calibration").tokens
    plain = Plain(tiny_bench.model, SITES, 0.6, lr=0.01)
    before = plain.loss(tokens).item()
    for _ in range(5):
        plain.step(tokens)
    assert plain.loss(tokens).item() < before
