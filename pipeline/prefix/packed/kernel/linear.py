"""Linear layers of decoded tokens on the CPU, where torch takes longer than reading the weights.

A decoded token reads every weight once, so that its time is that of memory. torch's products are
made for many tokens: of a few they take two to four times as long in float32, and where a
processor has no bfloat16 instructions (AVX-512 BF16, AMX) a plain loop multiplies such weights,
once over for each token. Here a weight is read once for all of a few tokens. A token's sums are
float32, rounded once, in an order that no other token changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from weakref import WeakSet

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.packed.kernel.library import kernel_lanes, kernel_linear

_within: WeakSet[nn.Module] = WeakSet()


@contextmanager
def kernel_linears(model: nn.Module) -> Iterator[None]:
    """Within it, a model's linear layers that the kernel serves compute few tokens by it.

    For decoding alone: no gradient goes through the kernel. Where there is nothing to gain it does
    nothing, nor within itself. Other threads wait for their turn with the model.
    """
    with turn_of(model):
        first = next(model.parameters())
        most = most_tokens(first.dtype) if first.device.type == "cpu" else 0
        if model in _within or not most:
            yield
            return
        changed = _served(model)
        _within.add(model)
        for layer in changed:
            layer.__dict__["forward"] = _forward(layer, most)
        try:
            yield
        finally:
            for layer in changed:
                del layer.__dict__["forward"]
            _within.discard(model)


def _served(model: nn.Module) -> list[nn.Linear]:
    dtype = next(model.parameters()).dtype
    return [
        layer
        for layer in model.modules()
        # What quantizes, adapts or moves weights has classes or a forward of its own.
        if type(layer) is nn.Linear
        and "forward" not in layer.__dict__
        and layer.weight.dtype == dtype
        and layer.weight.device.type == "cpu"
        and layer.weight.is_contiguous()
    ]


def _forward(layer: nn.Linear, most: int) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, bias = layer.weight, layer.bias
    by_kernel, dtype, largest = kernel_linear(weight, bias), weight.dtype, most * weight.shape[1]

    def forward(states: torch.Tensor) -> torch.Tensor:
        if states.numel() > largest or states.dtype != dtype or torch.is_grad_enabled():
            return F.linear(states, weight, bias)
        return by_kernel(states)

    return forward


@cache
def most_tokens(dtype: torch.dtype) -> int:
    """How many tokens of such a model's layers the kernel computes; torch is faster for more.

    By `python -m benchmarks.decoding --rows 1,2,4,8,16`. 0 where there is no kernel for them.
    """
    # Builds of torch without oneDNN have products of their own.
    if kernel_lanes() is None or not torch.backends.mkldnn.is_available():
        return 0
    if dtype == torch.float32:
        return 8
    if dtype == torch.bfloat16:
        return 4 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 64
    return 0
