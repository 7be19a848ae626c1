"""Linear layers of decoded tokens in bfloat16, on processors for which torch has no fast product.

A decoded token reads every weight once, so that its time is that of memory. Without bfloat16
instructions (AVX-512 BF16, AMX) torch multiplies such weights by a plain loop, which takes longer
than reading them, and as long again for every further token; here a weight is read once for all.
A token's sums are float32, rounded once, in an order that no other token changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.packed.kernel.library import kernel_lanes, kernel_linear

MOST = 64
"""Tokens that a layer is computed for by the kernel; more are torch's."""

_SERVED = torch.bfloat16
_within: WeakSet[nn.Module] = WeakSet()


@contextmanager
def kernel_linears(model: nn.Module) -> Iterator[None]:
    """Within it, a model's linear layers that the kernel serves compute few tokens by it.

    For decoding alone: no gradient goes through the kernel. Where there is nothing to gain it does
    nothing, nor within itself. Other threads wait for their turn with the model.
    """
    with turn_of(model):
        if model in _within or not _gains() or next(model.parameters()).dtype != _SERVED:
            yield
            return
        changed = _served(model)
        _within.add(model)
        for layer in changed:
            layer.__dict__["forward"] = partial(_forward, layer)
        try:
            yield
        finally:
            for layer in changed:
                del layer.__dict__["forward"]
            _within.discard(model)


def _served(model: nn.Module) -> list[nn.Linear]:
    return [
        layer
        for layer in model.modules()
        # What quantizes, adapts or moves weights has classes or a forward of its own.
        if type(layer) is nn.Linear
        and "forward" not in layer.__dict__
        and layer.weight.dtype == _SERVED
        and layer.weight.device.type == "cpu"
        and layer.weight.is_contiguous()
    ]


def _forward(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.weight, layer.bias
    tokens = states.numel() // states.shape[-1]
    if tokens > MOST or states.dtype != _SERVED or torch.is_grad_enabled():
        return F.linear(states, weight, bias)
    return kernel_linear(states, weight, bias)


@cache
def _gains() -> bool:
    """Whether the kernel is there, and torch has no product of bfloat16 that uses the processor."""
    # Builds of torch without oneDNN have no such question, and products of their own.
    if kernel_lanes() is None or not torch.backends.mkldnn.is_available():
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
