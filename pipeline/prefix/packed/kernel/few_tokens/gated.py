"""Gated MLPs by the kernel, each in one call.

One is known by its layers' names, and tried once: what its class does beside them shows.
"""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, is_plain
from pipeline.prefix.packed.kernel.few_tokens.functions import gated_function
from pipeline.prefix.packed.kernel.few_tokens.trial import agree, drawn_states

_LAYERS = ("gate_proj", "up_proj", "down_proj")
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda states: F.gelu(states, approximate="tanh"),
    "gelu": F.gelu,
}

_tried: WeakKeyDictionary[nn.Module, dict[torch.dtype, str | None]] = WeakKeyDictionary()


def gated_forwards(
    model: nn.Module, bound: Bound
) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """A model's gated MLPs, and the forward of each by the kernel."""
    for module in model.modules():
        if (activation := gated_activation(module, bound)) is not None:
            yield module, _forward(module, activation, bound)


def gated_activation(module: Any, bound: Bound) -> str | None:
    """The name of an MLP's activation; None for what is no gated MLP that the kernel knows."""
    if not isinstance(module, nn.Module) or not _may_be_one(module, bound):
        return None
    names = _tried.setdefault(module, {})
    if bound.dtype not in names:
        names[bound.dtype] = _activation_of(module)
    return names[bound.dtype]


def gated_layers(module: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Gate, up and down."""
    return module.gate_proj, module.up_proj, module.down_proj


def _may_be_one(module: nn.Module, bound: Bound) -> bool:
    parts = module._modules
    if parts.keys() != {*_LAYERS, "act_fn"} or module._parameters or not is_plain(module):
        return False
    if not all(bound.serves(parts[name]) for name in _LAYERS):
        return False
    gate, up, down = gated_layers(module)
    return gate.weight.shape == up.weight.shape and down.in_features == gate.out_features


def _activation_of(module: Any) -> str | None:
    grid = torch.linspace(-10, 10, 401)[None]
    layers = gated_layers(module)
    weight = layers[0].weight
    states = drawn_states(weight.shape[1], weight.dtype, (1.0, 1.0, 20.0))
    for name, activation in _ACTIVATIONS.items():
        if agree(module.act_fn, activation, grid):
            return name if agree(module.forward, gated_function(*layers, name), states) else None
    return None


def _forward(module: Any, activation: str, bound: Bound) -> Callable[[Tensor], Tensor]:
    own, layers = module.forward, gated_layers(module)
    by_kernel, size = gated_function(*layers, activation), layers[0].in_features

    def forward(states: Tensor) -> Tensor:
        result: Tensor = by_kernel(states) if bound.holds(states, size) else own(states)
        return result

    return forward
