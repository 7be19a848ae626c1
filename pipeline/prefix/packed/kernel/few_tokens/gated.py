"""Gated MLPs by the kernel, each in one call.

One is known by its layers' names, and tried once: what its class does beside them shows.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, is_plain
from pipeline.prefix.packed.kernel.few_tokens.forward import Forwards, forward_of
from pipeline.prefix.packed.kernel.few_tokens.functions import ACTIVATIONS, gated_function
from pipeline.prefix.packed.kernel.few_tokens.trial import (
    UndecidedError,
    Verdicts,
    agree,
    drawn_states,
)

_LAYERS = ("gate_proj", "up_proj", "down_proj")
# Large ones show what is clamped.
_SIZES = (1.0, 30.0, 1e3)

_activations, _verdicts = Verdicts[str](), Verdicts[bool]()


def gated_forwards(modules: Iterable[nn.Module], bound: Bound) -> Forwards:
    """The gated MLPs that the kernel knows."""
    for module in modules:
        activation = gated_activation(module, bound)
        if activation is not None:
            layers, trial = gated_layers(module), partial(_tried, module, activation)
            if _verdicts.of(module, bound.dtype, trial):
                function = gated_function(*layers, activation)
                yield module, forward_of(module.forward, function, bound, layers[0].in_features)


def gated_activation(module: Any, bound: Bound) -> str | None:
    """The name of the activation of what looks like a gated MLP; None for all else."""
    if not isinstance(module, nn.Module) or not _may_be_one(module, bound):
        return None
    return _activations.of(module, bound.dtype, lambda: _activation_of(module))


def gated_layers(module: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Gate, up and down."""
    return module.gate_proj, module.up_proj, module.down_proj


def _may_be_one(module: nn.Module, bound: Bound) -> bool:
    parts = module._modules
    if parts.keys() != {*_LAYERS, "act_fn"} or module._parameters or module.training:
        return False
    activation = parts["act_fn"]
    if activation is None or not is_plain(module) or not is_plain(activation):
        return False
    if not all(bound.serves(parts[name]) for name in _LAYERS):
        return False
    gate, up, down = gated_layers(module)
    return gate.weight.shape == up.weight.shape and down.in_features == gate.out_features


def _activation_of(module: Any) -> str | None:
    # Two rows, since some clip what is large.
    grid = torch.stack([torch.linspace(-10, 10, 401), torch.linspace(-100, 100, 401)])
    for name, activation in ACTIVATIONS.items():
        if agree(module.act_fn, activation, grid):
            return name
    return None


def _tried(module: Any, activation: str) -> bool:
    """Whether a module computes what its parts say."""
    layers = gated_layers(module)
    refuse_zeros(layers)
    weight = layers[0].weight
    states = drawn_states(weight.shape[1], weight.dtype, _SIZES)
    return agree(module.forward, gated_function(*layers, activation), states)


def refuse_zeros(layers: Iterable[nn.Linear]) -> None:
    """Raise UndecidedError for a layer whose weights begin with zeros, as some are initialised."""
    for layer in layers:
        if not layer.weight[0].any():
            raise UndecidedError
