"""The frozen model's last layer apart from the rest, so that logits are made a few at a time.

Logits of 4,096 positions over a vocabulary of 128,000 take 2 GB in float32; the hidden states that
they are made from take 67 MB at 4,096 numbers each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating
from pipeline.prefix.architecture.turns import turn_of

# What comes after the layer (a softcap, a scale) is seen at numbers that no cap lets through.
_LARGE = 64.0


@torch.no_grad()
def output_layer_of(model: PreTrainedModel) -> nn.Module | None:
    """The layer that gives a model's logits, where they are all that the model makes of them.

    It is tried on one token. None where the model scales, caps or cuts the layer's output; where
    the layer itself is trained, which takes a gradient of its own; and where it is sharded over
    processes, since its weights come together within the whole model's forward pass alone.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Module):
        return None
    if any(p.requires_grad or isinstance(p, DTensor) for p in layer.parameters()):
        return None
    given: list[torch.Tensor] = []

    def enlarged(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(output * _LARGE)
        return given[-1]

    with turn_of(model), evaluating(model):
        hook = layer.register_forward_hook(enlarged)
        try:
            ids = torch.zeros((1, 1), dtype=torch.long, device=input_device(model))
            logits = model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
    is_all = len(given) == 1 and given[0].shape == logits.shape
    return layer if is_all and torch.equal(given[0].to(logits), logits) else None


@contextmanager
def left_out(layer: nn.Module) -> Iterator[None]:
    """Within it a model gives hidden states in place of logits. The caller has its turn of it."""
    own = vars(layer).get("forward")
    layer.forward = _handed_on
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            # That of accelerate, which brings the layer's weights to its device.
            layer.forward = own


def _handed_on(states: torch.Tensor) -> torch.Tensor:
    return states
