"""TEAL against its definition: what is zeroed, where, how much, and that nothing stays behind."""

from decimal import Decimal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.sites import Site
from search_spaces.trial import TrialPlan
from trainables.sparse import sparsified
from trainables.teal import (
    SparsityMeter,
    keep_above,
    keep_largest,
    kept_entries,
    magnitude_histograms,
    mean_removed,
    quantile_threshold,
)
from trainables.workbench import Workbench

DOWN, QUERY = Site(0, "down_proj"), Site(1, "q_proj")


def plan_of(levels: dict[Site, float], rule: str = "topk", tokens: str = "all") -> TrialPlan:
    named = {str(site): level for site, level in levels.items()}
    return TrialPlan(levels=named, rule=rule, tokens=tokens, calibration_blocks=16)


def sparsified_by_sorting(x: Tensor, sparsity: float) -> Tensor:
    """``topk`` spelt out: each row keeps what is at least as large as its k-th largest magnitude."""
    rows = []
    for row in x.flatten(0, -2):
        kept = max(1, int(len(row) * (1 - Decimal(str(sparsity)))))
        smallest = sorted(row.abs().tolist(), reverse=True)[kept - 1]
        rows.append(torch.where(row.abs() >= smallest, row, torch.zeros_like(row)))
    return torch.stack(rows).view_as(x)


def input_of(bench: Workbench, site: Site, tokens: Tensor, plan: TrialPlan | None = None) -> Tensor:
    """What a site computes with, dense or under a plan: all positions that its weight is multiplied with."""
    seen, weight, linear = [], bench.model.linear(site).weight, F.linear

    def watch(x: Tensor, w: Tensor, *bias: Tensor | None) -> Tensor:
        if w is weight:
            seen.append(x.detach().clone())
        return linear(x, w, *bias)

    thresholds = bench.thresholds(plan) if plan else {}
    with sparsified(bench.model, plan or plan_of({}), thresholds), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", watch)
        bench.model.hidden(tokens)
    return torch.cat(seen[::-1], dim=-2)  # the dense prefix is multiplied last


@pytest.mark.parametrize(
    ("width", "sparsity", "kept"),
    [
        (20, 0.9, 2),  # 20 * (1 - 0.9) is a little under 2
        (10, 0.7, 3),
        (10, 0.0, 10),
        (48, 0.6, 19),
        (1536, 0.5, 768),
        (7, 0.5, 3),
        (5, 0.95, 1),
        (1, 0.5, 1),
    ],
)
def test_topk_keeps_the_study_count(width, sparsity, kept):
    assert kept_entries(width, sparsity) == kept
    assert int(keep_largest(-1.0 - torch.randperm(width), sparsity).count_nonzero()) == kept


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("width", [1, 10, 33, 48])
def test_topk_equals_sorting_each_row(width, sparsity):
    x = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(width))
    assert torch.equal(keep_largest(x, sparsity), sparsified_by_sorting(x, sparsity))


def test_topk_keeps_ties_with_the_smallest_kept():
    assert keep_largest(torch.tensor([[2.0, -1.0, 1.0, 0.5]]), 0.5).tolist() == [[2.0, -1.0, 1.0, 0.0]]


def test_threshold_zeroes_what_is_below_in_magnitude():
    assert keep_above(torch.tensor([-2.0, -0.9, 0.9, 1.0]), 1.0).tolist() == [-2.0, 0.0, 0.0, 1.0]


def histogram_of(x: Tensor) -> Tensor:
    return torch.bincount(x.float().abs().flatten().view(torch.int32) >> 16, minlength=2**15)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.6, 0.95])
def test_the_threshold_of_bf16_inputs_is_the_best_there_is(sparsity):
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1)).bfloat16().abs()
    shares = [(x < value).double().mean().item() for value in x.unique()]
    best = min(shares, key=lambda share: abs(share - sparsity))
    assert (keep_above(x, quantile_threshold(histogram_of(x), sparsity)) == 0).double().mean().item() == best


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.6, 0.95])
def test_the_threshold_of_fp32_inputs_is_within_one_bf16_step(sparsity):
    x = torch.randn(20000, generator=torch.Generator().manual_seed(1)).abs()
    exact = x.sort().values[int(sparsity * len(x))].item()
    assert quantile_threshold(histogram_of(x), sparsity) == pytest.approx(exact, rel=2**-7)


def test_histograms_count_the_inputs_of_the_dense_model(bench, tokens):
    for dense in (0, 4):
        counts = magnitude_histograms(bench.model, tokens, [DOWN, QUERY], dense)
        for row, site in zip(counts, (DOWN, QUERY), strict=True):
            x = torch.cat([input_of(bench, site, batch) for batch in tokens.split(8)])
            assert torch.equal(row, histogram_of(x[:, dense:]))


def test_thresholds_of_a_sparse_model_are_refused(bench, tokens):
    with sparsified(bench.model, plan_of({DOWN: 0.5}), {}), pytest.raises(RuntimeError, match="must be dense"):
        magnitude_histograms(bench.model, tokens, [DOWN], 0)


@pytest.mark.parametrize("rule", ["topk", "threshold"])
@pytest.mark.parametrize(("policy", "dense"), [("all", 0), ("second_half", 8)])
def test_what_is_removed_on_average_is_dense_minus_sparse_where_a_bias_acts(bench, tokens, rule, policy, dense):
    plan = plan_of({DOWN: 0.5, QUERY: 0.7}, rule=rule, tokens=policy)
    means = mean_removed(bench.model, plan, bench.thresholds(plan), tokens)
    assert list(means) == [DOWN, QUERY]
    alone = plan.model_copy(update={"levels": {str(DOWN): 0.5}})  # what one site gets, its own plan does not change
    removed = input_of(bench, DOWN, tokens) - input_of(bench, DOWN, tokens, alone)
    torch.testing.assert_close(means[DOWN], removed[:, dense:].double().mean(dim=(0, 1)))
    assert means[DOWN].abs().max() > 0


def test_a_threshold_plan_zeroes_the_share_that_was_asked_for(bench, tokens):
    plan = plan_of({DOWN: 0.6, QUERY: 0.3}, rule="threshold")
    for site, level in ((DOWN, 0.6), (QUERY, 0.3)):
        alone = plan_of({site: level}, rule="threshold")
        share = (input_of(bench, site, tokens, alone) == 0).double().mean().item()
        assert share == pytest.approx(level, abs=0.01)
    meter = SparsityMeter()
    with sparsified(bench.model, plan, bench.thresholds(plan), meter=meter):
        bench.model.hidden(bench.blocks("validation").tokens)
    assert meter.realised() == pytest.approx({"0.down_proj": 0.6, "1.q_proj": 0.3}, abs=0.05)


@pytest.mark.parametrize("policy", ["all", "second_half"])
def test_every_site_has_its_own_level_where_it_is_sparse(bench, tokens, policy):
    meter = SparsityMeter()
    with sparsified(bench.model, plan_of({DOWN: 0.75, QUERY: 0.25}, tokens=policy), {}, meter=meter):
        bench.model.hidden(tokens)
    assert meter.realised() == {"0.down_proj": 0.75, "1.q_proj": 0.25}


def test_the_meter_adds_up_over_forward_passes_of_the_sparsified_positions():
    meter = SparsityMeter()
    meter.count(DOWN, torch.zeros(1, 1, 4))
    meter.count(DOWN, torch.tensor([[[0.0, 1.0, -1.0, 2.0], [1.0, 1.0, 1.0, 1.0]]]))
    assert meter.realised() == {"0.down_proj": 5 / 12}


@pytest.mark.parametrize(("policy", "dense"), [("all", 0), ("second_half", 8)])
@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_a_token_policy_leaves_exactly_its_prefix_dense(bench, tokens, policy, dense, rule):
    plan = plan_of({DOWN: 0.5}, rule, policy)
    before, after = input_of(bench, DOWN, tokens), input_of(bench, DOWN, tokens, plan)
    assert torch.equal(after[:, :dense], before[:, :dense])
    tail = before[:, dense:]
    expected = (
        sparsified_by_sorting(tail, 0.5) if rule == "topk" else tail * (tail.abs() >= bench.thresholds(plan)[DOWN])
    )
    assert torch.equal(after[:, dense:], expected)
    assert bool((after[:, dense:] == 0).any(dim=-1).all())


def test_a_sparsified_layer_computes_w_s_x_plus_its_own_bias(bench):
    layer = bench.model.linear(DOWN)
    layer.bias = nn.Parameter(torch.randn(32))
    x = torch.randn(2, 5, 48)
    with sparsified(bench.model, plan_of({DOWN: 0.6}), {}):
        y = layer(x)
    torch.testing.assert_close(y, F.linear(sparsified_by_sorting(x, 0.6), layer.weight, layer.bias), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_leaving_restores_the_dense_logits_bit_for_bit(tiny_trial, tokens, dtype):
    bench = Workbench(tiny_trial.model.model_copy(update={"dtype": dtype}), tiny_trial.corpus, "cpu")
    dense = bench.model.network(input_ids=tokens).logits
    with sparsified(bench.model, plan_of({DOWN: 0.5, QUERY: 0.5}), {}):
        assert not torch.equal(bench.model.network(input_ids=tokens).logits, dense)
    assert torch.equal(bench.model.network(input_ids=tokens).logits, dense)


def test_entering_a_plan_with_a_site_that_is_not_there_leaves_the_model_dense(bench):
    plan = plan_of({DOWN: 0.5, Site(7, "q_proj"): 0.5})
    with pytest.raises(KeyError), sparsified(bench.model, plan, {}):
        pass
    bench.model.check_dense()
