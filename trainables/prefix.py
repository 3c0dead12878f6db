"""Passes that begin at a layer: what a change of one site leaves as it was is not computed again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from trainables.model import ResidentModel

Outputs = list[Any]
"""What each decoder layer returned in one forward pass, in the order of the layers."""


@contextmanager
def recorded(model: ResidentModel) -> Iterator[Outputs]:
    """Keep what each decoder layer returns in the one forward pass of the block.

    Args:
        model: in whatever mode it is.
    """
    outputs: Outputs = []

    def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    with ExitStack() as stack:
        for layer in model.layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        yield outputs


@contextmanager
def resumed(model: ResidentModel, layer: int, outputs: Outputs) -> Iterator[None]:
    """Begin forward passes at a layer while the block runs, with what those before it returned in an earlier pass.

    Args:
        model: in a mode that differs from that of the earlier pass at this layer or later ones only.
        layer: index of the first one that is run.
        outputs: of the earlier pass, on the same tokens.

    Raises:
        ValueError: if the earlier pass was none, or several.
    """
    if len(outputs) != len(model.layers):
        raise ValueError(f"a pass has {len(model.layers)} layers, but {len(outputs)} outputs were recorded")

    def known(*inputs: Any, **arguments: Any) -> Any:
        return outputs[layer - 1]

    with ExitStack() as stack:
        for before in model.layers[:layer]:
            stack.callback(delattr, before, "forward")
            before.forward = known
        yield
