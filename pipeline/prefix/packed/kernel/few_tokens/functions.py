"""The kernel's functions of a few tokens; whoever makes one holds the weights that it reads.

What a call asks of a layer is asked once: of one token it would be a good part of the time. Weights
must not move while a function is in use.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.layout import integers, pointers
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_library

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu")
"""By the names of transformers' `ACT2FN`, in the kernel's order."""


def linear_function(layers: Sequence[nn.Linear]) -> Callable[[Tensor], list[Tensor]]:
    """Layers of the same states `[..., in]`, of contiguous weights of one dtype."""
    weights = [layer.weight for layer in layers]
    function = getattr(kernel_library(), f"linear_{NAMES[weights[0].dtype]}")
    size, outs = weights[0].shape[1], [weight.shape[0] for weight in weights]
    laid_out = integers(outs), pointers(weights), pointers([layer.bias for layer in layers])
    count, total = len(outs), sum(outs)

    def of(states: Tensor) -> list[Tensor]:
        states = states.contiguous()
        tokens, leading = states.numel() // size, states.shape[:-1]
        result = states.new_empty(tokens * total)
        function(tokens, size, count, *laid_out, states.data_ptr(), result.data_ptr())
        if count == 1:
            return [result.view(*leading, total)]
        parts = result.split([tokens * out for out in outs])
        return [part.view(*leading, out) for part, out in zip(parts, outs, strict=True)]

    return of


def norm_function(
    scale: Tensor, epsilon: float, rounds_first: bool, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """An RMS norm of states `[..., size]` of a dtype, times a float32 `scale` `[size]`.

    With `rounds_first` what is scaled is of the dtype already, otherwise it is float32.
    """
    function, size = getattr(kernel_library(), f"norm_{NAMES[dtype]}"), len(scale)

    def of(states: Tensor) -> Tensor:
        states = states.contiguous()
        result, address = torch.empty_like(states), scale.data_ptr()
        rows = states.numel() // size
        where = states.data_ptr(), result.data_ptr()
        function(rows, size, epsilon, rounds_first, address, *where)
        return result

    return of


def gated_function(
    gate: nn.Linear, up: nn.Linear, down: nn.Linear, activation: str
) -> Callable[[Tensor], Tensor]:
    """A gated MLP of states `[..., in]`, of contiguous weights of one dtype."""
    layers = gate, up, down
    function = getattr(kernel_library(), f"gated_{NAMES[gate.weight.dtype]}")
    middle, size = gate.weight.shape
    out = down.weight.shape[0]
    sizes = integers([size, middle, out, ACTIVATIONS.index(activation)])
    data = pointers([t for layer in layers for t in (layer.weight, layer.bias)])

    def of(states: Tensor) -> Tensor:
        states = states.contiguous()
        result = states.new_empty(*states.shape[:-1], out)
        function(sizes, data, states.numel() // size, states.data_ptr(), result.data_ptr())
        return result

    return of
