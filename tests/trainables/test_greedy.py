"""TEAL's greedy levels: the mean that was asked for, in levels that can be, by raises that cost the least."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from search_spaces.errors import SponError
from search_spaces.sites import MODULES, Site
from search_spaces.trial import TrialPlan
from trainables.greedy import greedy_levels
from trainables.sparse import sparsified
from trainables.workbench import Workbench

ALL = [Site(layer, module) for layer in (0, 1) for module in MODULES]
MLP = [Site(1, module) for module in ("gate_proj", "up_proj", "down_proj")]
BLOCKS = 16

both_rules = pytest.mark.parametrize("rule", ["topk", "threshold"])


def levels_at(bench: Workbench, sites: list[Site], sparsity: float, rule: str, n_blocks: int, step: float = 0.02):
    """Greedy levels at one sparsity."""
    return greedy_levels(bench, sites, [sparsity], rule, n_blocks, step)[0]


def shares_of(bench: Workbench, sites: list[Site], layer: int) -> dict[str, float]:
    """Fraction of a layer's planned weights by site."""
    weights = {str(site): bench.model.linear(site).weight.numel() for site in sites if site.layer == layer}
    return {site: weight / sum(weights.values()) for site, weight in weights.items()}


def mean_level(bench: Workbench, levels: dict[str, float], sites: list[Site], layer: int) -> float:
    return sum(share * levels[site] for site, share in shares_of(bench, sites, layer).items())


def layer_output(bench: Workbench, layer: int, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = bench.model.network.model.layers[layer].register_forward_hook(lambda m, args, output: seen.append(output))
    bench.model.hidden(tokens)
    hook.remove()
    return seen[0]


def layer_error(bench: Workbench, layer: int, levels: dict[str, float], rule: str) -> float:
    """What levels of one layer do to its output, by running the whole model: the layers before it are dense."""
    on = {site: level for site, level in levels.items() if Site.parse(site).layer == layer and level > 0}
    plan = TrialPlan(levels=on, rule=rule, tokens="all", calibration_blocks=BLOCKS)
    tokens = bench.blocks("calibration").tokens
    dense = layer_output(bench, layer, tokens)
    with sparsified(bench.model, plan, bench.thresholds(plan)):
        return (layer_output(bench, layer, tokens) - dense).double().norm().item()


@both_rules
@pytest.mark.parametrize("sparsity", [0.02, 0.5, 0.63, 0.9, 0.95])
def test_each_layer_has_the_target_for_its_weighted_mean(bench, rule, sparsity):
    levels = levels_at(bench, ALL, sparsity, rule, BLOCKS)
    assert list(levels) == [str(site) for site in ALL]
    assert all(0 <= level <= 0.95 for level in levels.values())
    for layer in (0, 1):
        assert mean_level(bench, levels, ALL, layer) == pytest.approx(sparsity, abs=1e-6)


def test_shares_are_those_of_the_planned_sites_alone(bench):
    levels = levels_at(bench, MLP, 0.5, "topk", BLOCKS)
    assert list(levels) == [str(site) for site in MLP]
    assert sum(levels.values()) / 3 == pytest.approx(0.5, abs=1e-6)  # the three are of one size


def test_levels_differ_between_sites(bench):
    assert len(set(levels_at(bench, ALL, 0.5, "topk", BLOCKS).values())) > 3


@both_rules
@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.6, 0.95])
def test_a_single_site_in_each_layer_has_the_uniform_level(bench, rule, sparsity):
    sites = [Site(0, "down_proj"), Site(1, "k_proj")]
    assert levels_at(bench, sites, sparsity, rule, 2) == {"0.down_proj": sparsity, "1.k_proj": sparsity}


def test_no_sites_have_no_levels(bench):
    assert levels_at(bench, [], 0.5, "threshold", 1) == {}


@both_rules
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("step", [0.02, 0.05])
def test_the_first_raise_is_of_the_site_that_it_costs_least(bench, rule, layer, step):
    alone = [{site: step / share} for site, share in shares_of(bench, ALL, layer).items()]
    (best,) = min(alone, key=lambda levels: layer_error(bench, layer, levels, rule))
    levels = levels_at(bench, ALL, step, rule, BLOCKS, step)
    raised = {site: level for site, level in levels.items() if level > 0 and Site.parse(site).layer == layer}
    assert raised == pytest.approx({best: step / shares_of(bench, ALL, layer)[best]}, abs=1e-6)


@both_rules
def test_a_raise_ends_at_the_highest_level(bench, rule):
    """A step of the whole layer is more than any site can take: each goes to 0.95, the last to what is missing."""
    levels = levels_at(bench, MLP, 0.8, rule, BLOCKS, step=1.0)
    assert sorted(levels.values()) == pytest.approx([0.5, 0.95, 0.95], abs=1e-6)


@both_rules
def test_sparsities_are_stations_of_one_climb(bench, rule):
    low, high = greedy_levels(bench, ALL, [0.2, 0.5], rule, BLOCKS)
    assert low == levels_at(bench, ALL, 0.2, rule, BLOCKS)
    assert all(high[site] >= level for site, level in low.items())
    for layer in (0, 1):
        assert mean_level(bench, high, ALL, layer) == pytest.approx(0.5, abs=1e-6)


def test_bounds_hold_the_levels(bench):
    (levels,) = greedy_levels(bench, ALL, [0.5], "topk", BLOCKS, bounds=(0.37, 0.71))
    assert (min(levels.values()), max(levels.values())) == (0.37, 0.71)
    assert mean_level(bench, levels, ALL, 0) == pytest.approx(0.5, abs=1e-6)


@both_rules
@pytest.mark.parametrize("sparsity", [0.4, 0.6])
def test_the_error_is_less_than_that_of_uniform_levels(bench, rule, sparsity):
    levels = levels_at(bench, ALL, sparsity, rule, BLOCKS)
    for layer in (0, 1):
        uniform = {str(site): sparsity for site in ALL}
        assert layer_error(bench, layer, levels, rule) < layer_error(bench, layer, uniform, rule)


def test_layers_are_optimised_by_themselves(bench):
    both = levels_at(bench, ALL, 0.5, "topk", BLOCKS)
    late = levels_at(bench, [site for site in ALL if site.layer == 1], 0.5, "topk", BLOCKS)
    assert late == {site: level for site, level in both.items() if site in late}


@both_rules
def test_the_order_of_the_sites_and_a_second_call_change_nothing(bench, rule):
    first = levels_at(bench, ALL, 0.5, rule, BLOCKS)
    assert list(levels_at(bench, ALL[::-1], 0.5, rule, BLOCKS).items()) == list(first.items())


@both_rules
def test_only_the_first_calibration_blocks_are_read(bench, tokens, rule):
    seen: list[Tensor] = []
    embedding = bench.model.network.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    levels_at(bench, MLP, 0.2, rule, 4)
    hook.remove()
    assert seen
    assert all(torch.equal(read, tokens[:4]) for read in seen)


@both_rules
def test_the_model_is_dense_afterwards(bench, tokens, rule):
    dense = bench.model.hidden(tokens)
    levels_at(bench, ALL, 0.5, rule, 2)
    bench.model.check_dense()
    assert not any(layer._forward_hooks for layer in bench.model.network.model.layers)
    assert torch.equal(bench.model.hidden(tokens), dense)


@both_rules
def test_a_sparse_model_is_refused(bench, rule):
    plan = TrialPlan(levels={"0.down_proj": 0.5}, rule="topk", tokens="all", calibration_blocks=0)
    with sparsified(bench.model, plan, {}), pytest.raises(RuntimeError, match="must be dense"):
        levels_at(bench, ALL, 0.5, rule, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: levels_at(b, ALL, 0.96, "topk", 2), "must ascend within 0..0.95, but got [0.96]"),
        (lambda b: levels_at(b, ALL, -0.1, "topk", 2), "must ascend within 0..0.95, but got [-0.1]"),
        (lambda b: greedy_levels(b, ALL, [0.6, 0.5], "topk", 2), "must ascend within 0..0.95, but got [0.6, 0.5]"),
        (lambda b: levels_at(b, ALL, 0.5, "topk", 2, step=0.0), "0 < step <= 1, but got 0.0"),
        (lambda b: levels_at(b, ALL, 0.5, "topk", 0), "n_blocks must be in 1..16, but got 0"),
        (lambda b: levels_at(b, ALL, 0.5, "topk", 17), "n_blocks must be in 1..16, but got 17"),
        (lambda b: levels_at(b, [Site(2, "q_proj")], 0.5, "topk", 2), "a layer must be in 0..1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bench: Workbench, call: Callable[[Workbench], object], message: str):
    with pytest.raises(SponError, match=re.escape(message)) as error:
        call(bench)
    assert "\n" not in str(error.value)
