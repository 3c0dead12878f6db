"""Passes that begin at a layer are, bit for bit, those that begin at the tokens."""

import pytest
import torch

from search_spaces.schema import TrialConfig
from search_spaces.sites import Site
from trainables.prefix import recorded, resumed
from trainables.sparse import sparsified
from trainables.spon import SponBiases
from trainables.workbench import Workbench


@pytest.fixture
def tokens(tiny_bench: Workbench) -> torch.Tensor:
    return tiny_bench.blocks("validation").tokens[:2]


@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_of_a_layer_needs_that_layer_and_later_ones_alone(
    tiny_bench: Workbench, tiny_trial: TrialConfig, tokens: torch.Tensor, layer: int
) -> None:
    model, plan, ran = tiny_bench.model, tiny_trial.plan, []
    biases = SponBiases(model, (Site(layer, "down_proj"),), "output_bias")
    biases.load({site: torch.full_like(vector, 0.1) for site, vector in biases.state().items()})
    thresholds = tiny_bench.thresholds(plan)
    with torch.inference_mode():
        with sparsified(model, plan, thresholds), recorded(model) as outputs:
            without = model.hidden(tokens)
        with sparsified(model, plan, thresholds, biases):
            whole = model.hidden(tokens)
            hooks = [linear.register_forward_hook(lambda *_: ran.append(1)) for linear in _down(model)]
            with resumed(model, layer, outputs):
                from_layer = model.hidden(tokens)
            for hook in hooks:
                hook.remove()
        assert torch.equal(from_layer, whole)
        assert not torch.equal(from_layer, without)
        assert len(ran) == len(model.layers) - layer
    model.check_dense()
    assert torch.equal(model.hidden(tokens), model.hidden(tokens))


def _down(model):
    return [model.linear(Site(layer, "down_proj")) for layer in range(len(model.layers))]


def test_a_pass_that_was_not_recorded_whole_is_refused(tiny_bench: Workbench, tokens: torch.Tensor) -> None:
    with recorded(tiny_bench.model) as outputs:
        tiny_bench.model.hidden(tokens)
        tiny_bench.model.hidden(tokens)
    refused = pytest.raises(ValueError, match="a pass has 2 layers, but 4 outputs were recorded")
    with refused, resumed(tiny_bench.model, 1, outputs):
        pass
