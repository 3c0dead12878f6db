"""SPON biases: a part of the product, in either form, rounded once."""

import pytest
import torch
from torch import Tensor, nn

from search_spaces.sites import Site
from search_spaces.trial import TrialConfig, TrialPlan
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.workbench import Workbench

DOWN, KEY = Site(0, "down_proj"), Site(1, "k_proj")
NO_LEVELS = TrialPlan(levels={}, rule="topk", tokens="all", calibration_blocks=0)


@pytest.fixture
def tokens(tiny_bench: Workbench) -> Tensor:
    return tiny_bench.blocks("validation").tokens


def random_biases(bench: Workbench, form: str = "output_bias") -> SponBiases:
    biases = SponBiases(bench.model, (DOWN, KEY), form)
    generator = torch.Generator().manual_seed(3)
    biases.load({site: torch.randn(vector.shape, generator=generator) for site, vector in biases.vectors.items()})
    return biases


@pytest.mark.parametrize(("form", "widths"), [("output_bias", (32, 16)), ("input_vector", (48, 32))])
def test_vectors_start_at_zero_in_fp32_with_the_width_of_their_form(tiny_bench, form, widths):
    vectors = SponBiases(tiny_bench.model, (DOWN, KEY), form).parameters()
    assert tuple(len(vector) for vector in vectors) == widths
    assert all(vector.dtype == torch.float32 and not vector.any() for vector in vectors)


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_zero_biases_give_the_logits_of_teal_alone(tiny_bench, tiny_trial, tokens, form):
    with sparsified(tiny_bench.model, tiny_trial.plan, {}):
        teal = tiny_bench.model.hidden(tokens)
    with sparsified(tiny_bench.model, tiny_trial.plan, {}, SponBiases(tiny_bench.model, (DOWN, KEY), form)):
        assert torch.equal(tiny_bench.model.hidden(tokens), teal)


def test_the_bias_is_added_to_the_output_and_a_bias_of_the_layer_stays(tiny_bench):
    layer, biases = tiny_bench.model.linear(DOWN), random_biases(tiny_bench)
    layer.bias = nn.Parameter(torch.randn(32))
    x = torch.randn(2, 3, 48)
    with sparsified(tiny_bench.model, NO_LEVELS, {}, biases):
        y = layer(x)
    torch.testing.assert_close(y, x @ layer.weight.T + layer.bias + biases.vectors[DOWN])


def test_an_input_vector_is_the_output_bias_w_a(tiny_bench, tokens):
    by_input, by_output = random_biases(tiny_bench, "input_vector"), random_biases(tiny_bench)
    by_output.load({site: tiny_bench.model.linear(site).weight @ a.detach() for site, a in by_input.vectors.items()})
    with sparsified(tiny_bench.model, NO_LEVELS, {}, by_input):
        one = tiny_bench.model.hidden(tokens)
    with sparsified(tiny_bench.model, NO_LEVELS, {}, by_output):
        other = tiny_bench.model.hidden(tokens)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def bf16(tiny_trial: TrialConfig) -> Workbench:
    return Workbench(tiny_trial.model.model_copy(update={"dtype": "bfloat16"}), tiny_trial.corpus, "cpu")


def test_product_and_bias_are_rounded_once_where_a_small_bias_would_be_lost(bf16):
    """At sd(y) = 1 a b of 1e-3 is under half a step of most y: added to a rounded y it is lost."""
    generator = torch.Generator().manual_seed(0)
    layer, biases = bf16.model.linear(DOWN), SponBiases(bf16.model, (DOWN,), "output_bias")
    x = torch.randn(2000, 48, generator=generator).bfloat16()
    layer.weight.copy_(torch.randn(32, 48, generator=generator) / 48**0.5)
    small = torch.full((32,), 1e-3)
    biases.load({DOWN: small})
    exact = x.double() @ layer.weight.double().T
    with torch.no_grad(), sparsified(bf16.model, NO_LEVELS, {}, biases):
        once = layer(x)
    twice = layer(x) + small.bfloat16()
    assert once.dtype == torch.bfloat16
    assert (once == (exact + 1e-3).bfloat16()).double().mean().item() > 0.99  # sums in fp32 end on either side of a tie
    assert ((twice == layer(x)).double().mean() > 0.5).item()  # the loss before
    assert (once.double() - exact).mean().item() == pytest.approx(1e-3, rel=0.1)
    assert (twice.double() - exact).mean().item() < 0.8e-3


def test_a_bias_of_the_layers_own_does_not_swallow_a_small_one(bf16):
    """Qwen2 has biases of up to hundreds, beside which b = 1e-3 is nothing in bf16."""
    generator = torch.Generator().manual_seed(0)
    layer, biases = bf16.model.linear(DOWN), SponBiases(bf16.model, (DOWN,), "output_bias")
    layer.bias = nn.Parameter(torch.full((32,), 4.0, dtype=torch.bfloat16), requires_grad=False)
    biases.load({DOWN: torch.full((32,), 4e-3)})
    x = torch.randn(4000, 48, generator=generator).bfloat16()
    with torch.no_grad(), sparsified(bf16.model, NO_LEVELS, {}, biases):
        biased = layer(x)
    assert (biased.double() - layer(x).double()).mean().item() == pytest.approx(4e-3, rel=0.2)


def test_positions_that_stay_dense_get_no_bias(tiny_bench, tokens):
    plan = NO_LEVELS.model_copy(update={"tokens": "second_half", "levels": {str(DOWN): 0.5}})
    layer, x = tiny_bench.model.linear(DOWN), torch.randn(2, 8, 48)
    with sparsified(tiny_bench.model, plan, {}):
        alone = layer(x)
    biases = random_biases(tiny_bench)
    with sparsified(tiny_bench.model, plan, {}, biases):
        y = layer(x)
    assert torch.equal(y[:, :4], layer(x)[:, :4])
    torch.testing.assert_close(y[:, 4:], alone[:, 4:] + biases.vectors[DOWN])


@pytest.mark.parametrize("form", ["output_bias", "input_vector"])
def test_gradients_reach_the_fp32_vectors(tiny_trial, form):
    bench = Workbench(tiny_trial.model.model_copy(update={"dtype": "bfloat16"}), tiny_trial.corpus, "cpu")
    biases = SponBiases(bench.model, (DOWN, KEY), form)
    with sparsified(bench.model, NO_LEVELS, {}, biases):
        bench.model.hidden(bench.blocks("validation").tokens[:2]).float().square().sum().backward()
    assert all(vector.grad is not None and vector.grad.dtype == torch.float32 for vector in biases.parameters())


def test_a_correction_is_the_same_bias_in_both_forms_and_spares_sites_without_one(tiny_bench):
    sites = (Site(0, "down_proj"), Site(1, "down_proj"))
    resting = {sites[0]: torch.randn(48, dtype=torch.float64)}
    outputs, layer = [], tiny_bench.model.linear(sites[0])
    for form in ("output_bias", "input_vector"):
        biases = SponBiases(tiny_bench.model, sites, form)
        biases.correct(resting, 0.5)
        outputs.append(biases.sites[sites[0]](layer.weight))
        assert not biases.vectors[sites[1]].any()
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], layer.weight @ resting[sites[0]].float() / 2)


def test_the_state_is_a_copy(tiny_bench):
    biases = random_biases(tiny_bench)
    state = biases.state()
    with torch.no_grad():
        biases.vectors[DOWN].zero_()
    assert state[DOWN].any()
    assert not state[DOWN].requires_grad


@pytest.mark.parametrize(
    "state",
    [
        {DOWN: torch.zeros(32)},
        {DOWN: torch.zeros(32), KEY: torch.zeros(16), Site(0, "q_proj"): torch.zeros(32)},
        {DOWN: torch.zeros(32), KEY: torch.zeros(1)},
        {DOWN: torch.zeros(32), KEY: torch.zeros(())},
    ],
    ids=["one missing", "one more", "one that would broadcast", "a scalar"],
)
def test_a_state_that_does_not_fit_is_refused(tiny_bench, state):
    with pytest.raises(ValueError, match="biases must have the sites and shapes"):
        SponBiases(tiny_bench.model, (DOWN, KEY), "output_bias").load(state)
