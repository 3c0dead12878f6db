"""Fisher curves: their formula by another way, the KL that they stand for, and the same from any parts of the text."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site
from search_spaces.trial import TrialPlan
from trainables.curves import LEVELS, Curves, _chance, merged
from trainables.evaluation import score
from trainables.sparse import sparsified
from trainables.teal import keep_above, keep_largest, quantile_threshold
from trainables.workbench import Workbench

ALL = tuple(Site(layer, module) for layer in (0, 1) for module in MODULES)
BLOCKS = 16

both_rules = pytest.mark.parametrize("rule", ["topk", "threshold"])


def plan_of(rule: str, tokens: str = "all", sites: tuple[Site, ...] = ALL, level: float = 0.5) -> TrialPlan:
    levels = {str(site): level for site in sites}
    return TrialPlan(levels=levels, rule=rule, tokens=tokens, calibration_blocks=BLOCKS)


def by_the_formula(bench: Workbench, plan: TrialPlan, numbers: list[int]) -> np.ndarray:
    """The same by a disturbance that is added to the input of each site, with labels drawn by hand."""
    model, tokens = bench.model, bench.blocks("calibration").tokens[numbers]
    disturbances: dict[Site, Tensor] = {}
    inputs: dict[Site, Tensor] = {}
    for site in ALL:
        layer = model.linear(site)

        def forward(x: Tensor, site: Site = site, layer: torch.nn.Linear = layer) -> Tensor:
            inputs[site] = x.detach()
            disturbances[site] = torch.zeros_like(x, requires_grad=True)
            return F.linear(x + disturbances[site], layer.weight)

        layer.forward = forward
    log_p = (model.hidden(tokens) @ model.head.T).log_softmax(-1)
    chance = torch.stack([_chance(number, tokens.shape[1], 1)[0] for number in numbers])
    labels = (log_p.exp().cumsum(-1) < chance[..., None]).sum(-1)
    loss = -log_p.gather(-1, labels[..., None]).sum()
    gradients = dict(zip(ALL, torch.autograd.grad(loss, [disturbances[site] for site in ALL]), strict=True))
    for site in ALL:
        del model.linear(site).forward
    cost = np.zeros((len(ALL), len(LEVELS)))
    prefix = plan.dense_prefix(tokens.shape[1])
    for row, site in enumerate(ALL):
        histogram = bench._histograms(plan)[site]
        x = inputs[site][:, prefix:]
        for column, level in enumerate(LEVELS):
            cut = quantile_threshold(histogram, level)
            kept = keep_largest(x, level) if plan.rule == "topk" else keep_above(x, cut)
            removed = (gradients[site][:, prefix:] * (x - kept)).sum(-1)
            cost[row, column] = removed.double().square().sum() / (2 * tokens.numel())
    return cost


@both_rules
@pytest.mark.parametrize("tokens", ["all", "second_half"])
def test_curves_are_those_of_the_formula(bench, rule, tokens):
    plan, numbers = plan_of(rule, tokens), [0, 3, 5]
    found = bench.fisher_curves(plan, numbers)
    assert found.sites == ALL
    assert found.positions == 3 * bench.blocks("calibration").tokens.shape[1]
    np.testing.assert_allclose(found.mean, by_the_formula(bench, plan, numbers), rtol=2e-3, atol=1e-9)
    assert (found.mean[:, 0] == 0).all()
    assert (found.mean[:, -1] > 0).all()


@both_rules
def test_a_curve_is_the_kl_of_a_small_level_alone(bench, rule):
    found = bench.fisher_curves(plan_of(rule), list(range(BLOCKS)), draws=64)
    blocks, teacher = bench.blocks("calibration"), bench.teacher("calibration")
    predicted, measured = [], []
    for site in ALL:
        for level in (0.2, 0.5):
            plan = plan_of(rule, sites=(site,), level=level)
            with sparsified(bench.model, plan, bench.thresholds(plan)):
                measured.append(score(bench.model, blocks, teacher).kl_nats)
            predicted.append(found.mean[ALL.index(site), LEVELS.index(level)])
    ratio = np.array(predicted[::2]) / np.array(measured[::2])
    assert np.median(ratio) == pytest.approx(1, abs=0.15)
    assert ((ratio > 0.5) & (ratio < 2)).all()
    assert np.corrcoef(np.log(predicted), np.log(measured))[0, 1] > 0.95


@both_rules
def test_parts_of_the_text_add_up_to_the_whole(bench, rule):
    plan, numbers = plan_of(rule), list(range(BLOCKS))
    whole = bench.fisher_curves(plan, numbers, draws=2)
    parts = [bench.fisher_curves(plan, numbers[part::3], draws=2) for part in range(3)]
    np.testing.assert_allclose(merged(parts).cost, whole.cost, rtol=1e-4, atol=1e-12)
    assert merged(parts).positions == whole.positions


def test_more_draws_leave_the_first_as_it_is(bench):
    plan, numbers = plan_of("threshold"), [1, 2]
    one, three = (bench.fisher_curves(plan, numbers, draws) for draws in (1, 3))
    np.testing.assert_allclose(three.cost[0], one.cost[0], rtol=1e-5, atol=1e-12)
    assert not np.allclose(three.cost[1], three.cost[0], rtol=0.01)
    np.testing.assert_array_equal(three.mean, three.cost.mean(axis=0))


def test_curves_of_other_levels_are_the_same_and_kept(bench, monkeypatch):
    found = bench.fisher_curves(plan_of("threshold"), [4, 5])
    monkeypatch.setattr("trainables.workbench.fisher_curves", None)
    again = bench.fisher_curves(plan_of("threshold", level=0.7), [4, 5])
    np.testing.assert_array_equal(found.cost, again.cost)


def test_a_site_that_is_left_out_changes_no_other(bench):
    some = tuple(site for site in ALL if site.module not in ("q_proj", "gate_proj"))
    whole, part = (bench.fisher_curves(plan_of("topk", sites=sites), [0, 1]) for sites in (ALL, some))
    rows = [ALL.index(site) for site in some]
    np.testing.assert_allclose(part.mean, whole.mean[rows], rtol=1e-5, atol=1e-12)


def test_the_model_must_be_dense_and_stays_so(bench):
    plan = plan_of("topk")
    bench.fisher_curves(plan, [6])
    bench.model.check_dense()
    with sparsified(bench.model, plan, {}), pytest.raises(RuntimeError, match="must be dense"):
        bench.fisher_curves(plan, [7])


def test_a_site_without_a_gradient_is_refused(bench, monkeypatch):
    layer = bench.model.linear(Site(1, "o_proj"))
    quantised = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    monkeypatch.setitem(layer._parameters, "weight", quantised)
    with pytest.raises(SponError, match=r"floating-point weights, but 1\.o_proj has torch\.int8"):
        bench.fisher_curves(plan_of("topk"), [8])


def test_merging_weighs_parts_by_their_positions():
    parts = [Curves(ALL[:1], np.full((1, 1, 2), cost), positions) for cost, positions in ((1.0, 30), (2.0, 10))]
    assert merged(parts).cost == pytest.approx(1.25)
    assert dataclasses.replace(merged(parts), cost=np.zeros(1)).positions == 40
