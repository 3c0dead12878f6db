"""TEAL's greedy levels: the mean that was asked for, in levels that can be, by raises that cost the least."""

import pytest
import torch
from torch import Tensor

from search_spaces.sites import MODULES, Site
from search_spaces.trial import TrialPlan
from trainables import greedy
from trainables.greedy import greedy_levels
from trainables.sparse import sparsified
from trainables.workbench import Workbench

ALL = [Site(layer, module) for layer in (0, 1) for module in MODULES]
MLP = [Site(1, module) for module in ("gate_proj", "up_proj", "down_proj")]
BLOCKS = 16

both_rules = pytest.mark.parametrize("rule", ["topk", "threshold"])


def levels_at(bench: Workbench, sites: list[Site], sparsity: float, rule: str, n_blocks: int) -> dict[str, float]:
    """Greedy levels at one sparsity."""
    return greedy_levels(bench, sites, [sparsity], rule, n_blocks, (0.0, 0.95))[0]


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
def test_each_layer_has_the_targets_of_one_climb_for_its_weighted_mean(bench, rule):
    targets = [0.02, 0.337, 0.95]
    found = greedy_levels(bench, ALL, targets, rule, BLOCKS, (0.0, 0.95))
    for sparsity, levels in zip(targets, found, strict=True):
        assert list(levels) == [str(site) for site in ALL]
        assert all(0 <= level <= 0.95 for level in levels.values())
        for layer in (0, 1):
            assert mean_level(bench, levels, ALL, layer) == pytest.approx(sparsity, abs=1e-6)
    assert found[1] == levels_at(bench, ALL, 0.337, rule, BLOCKS)
    assert all(found[1][site] >= level for site, level in found[0].items())


@both_rules
def test_a_single_site_in_each_layer_has_the_uniform_level(bench, rule):
    sites, targets = [Site(0, "down_proj"), Site(1, "k_proj")], [0.0, 0.33, 0.95]
    found = greedy_levels(bench, sites, targets, rule, 2, (0.0, 0.95))
    assert found == [{"0.down_proj": sparsity, "1.k_proj": sparsity} for sparsity in targets]


@both_rules
@pytest.mark.parametrize("layer", [0, 1])
def test_the_first_raise_is_of_the_site_that_it_costs_least(bench, rule, layer):
    alone = [{site: 0.02 / share} for site, share in shares_of(bench, ALL, layer).items()]
    (best,) = min(alone, key=lambda levels: layer_error(bench, layer, levels, rule))
    levels = levels_at(bench, ALL, 0.02, rule, BLOCKS)
    raised = {site: level for site, level in levels.items() if level > 0 and Site.parse(site).layer == layer}
    assert raised == pytest.approx({best: 0.02 / shares_of(bench, ALL, layer)[best]}, abs=1e-6)


@both_rules
def test_a_raise_ends_at_the_highest_level(bench, rule, monkeypatch):
    """A step of the whole layer is more than any site can take: each goes to 0.95, the last to what is missing."""
    monkeypatch.setattr(greedy, "_STEP", 1.0)
    levels = levels_at(bench, MLP, 0.8, rule, BLOCKS)
    assert sorted(levels.values()) == pytest.approx([0.5, 0.95, 0.95], abs=1e-6)


def test_bounds_hold_the_levels(bench):
    (levels,) = greedy_levels(bench, ALL, [0.5], "topk", BLOCKS, (0.37, 0.71))
    assert (min(levels.values()), max(levels.values())) == (0.37, 0.71)
    assert mean_level(bench, levels, ALL, 0) == pytest.approx(0.5, abs=1e-6)


@both_rules
def test_the_error_is_less_than_that_of_uniform_levels(bench, rule):
    levels, uniform = levels_at(bench, ALL, 0.6, rule, BLOCKS), {str(site): 0.6 for site in ALL}
    for layer in (0, 1):
        assert layer_error(bench, layer, levels, rule) < layer_error(bench, layer, uniform, rule)


def test_layers_are_optimised_by_themselves(bench):
    both = levels_at(bench, ALL, 0.5, "topk", BLOCKS)
    late = levels_at(bench, [site for site in ALL if site.layer == 1], 0.5, "topk", BLOCKS)
    assert late == {site: level for site, level in both.items() if site in late}


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
