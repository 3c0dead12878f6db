"""Folds biases into the linear layers of a model, so that stock transformers can load them.

There is no list of families. A family can absorb a bias if it builds that layer with a bias once the switches of its
config are on. In transformers 5.23 Llama, Granite and SmolLM3 have both switches, Qwen3, Gemma and OLMo have the
attention switch, Mistral has none, and Qwen2 has biases on q, k and v without a switch.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from analysis.export.load import ABSORBED_BY
from search_spaces.errors import SponError

_SWITCHES = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
}


def absorb(network: PreTrainedModel, biases: Mapping[str, Tensor], identity: str) -> None:
    """Add the biases to the layers' own in place. Other layers that a switch gives a bias get zeros.

    Args:
        network: the dense base model. Its config gets the switches and the trial's identity.
        biases: (out_features,) fp32 by module path.
        identity: of the trial.

    Raises:
        SponError: if the config has no switch for one of the layers.
    """
    config = _switched(network, biases)
    with torch.device("meta"):
        built: dict[str, Tensor] = type(network)(config).state_dict()
    without = sorted({path.rpartition(".")[2] for path in biases if f"{path}.bias" not in built})
    if without:
        raise SponError(
            f"to absorb a bias, a model's config must have a switch for it, but {config.model_type} has none for "
            f"{', '.join(without)}; an export without --absorb, the adapter, works for this model (at --absorb)"
        )
    for key in built.keys() - network.state_dict().keys():
        path, _, leaf = key.rpartition(".")
        zeros = torch.zeros(built[key].shape, dtype=network.dtype, device=network.device)
        network.get_submodule(path).register_parameter(leaf, nn.Parameter(zeros, requires_grad=False))
    for path, bias in biases.items():
        own = network.get_parameter(f"{path}.bias")
        own.data.copy_(own.float() + bias.to(own.device))
    network.config = config
    setattr(network.config, ABSORBED_BY, identity)


def _switched(network: PreTrainedModel, biases: Mapping[str, Tensor]) -> Any:
    """Return a copy of the config with every available switch on that the biases need."""
    config = copy.deepcopy(network.config)
    needed = {path.rpartition(".")[2] for path in biases if getattr(network.get_submodule(path), "bias", None) is None}
    for switch, modules in _SWITCHES.items():
        if needed & set(modules) and hasattr(config, switch):
            setattr(config, switch, True)
    return config
