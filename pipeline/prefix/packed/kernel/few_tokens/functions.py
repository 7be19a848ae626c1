"""The kernel's functions of a few tokens.

What a call asks of a layer is asked once: of one token it would be a good part of the time. A
function reads the tensors that were a layer's weights when it was made, and keeps them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.layout import integers, pointers
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_library

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
}
"""By the names of transformers' `ACT2FN`, in the kernel's order."""


def number_of(activation: str) -> int:
    """What the kernel knows an activation by."""
    return list(ACTIVATIONS).index(activation)


def linear_function(layers: Sequence[nn.Linear]) -> Callable[[Tensor], list[Tensor]]:
    """Layers of the same states `[..., in]`, of contiguous weights of one dtype."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    outs, size = [len(weight) for weight in weights], weights[0].shape[1]
    function = getattr(kernel_library(), f"linear_{NAMES[weights[0].dtype]}")
    laid_out = integers(outs), pointers(weights), pointers(biases)
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

    of.__dict__["held"] = weights, biases
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
    tensors = [tensor for layer in (gate, up, down) for tensor in (layer.weight, layer.bias)]
    function = getattr(kernel_library(), f"gated_{NAMES[gate.weight.dtype]}")
    (middle, size), out = gate.weight.shape, len(down.weight)
    sizes = integers([size, middle, out, number_of(activation)])
    data = pointers(tensors)

    def of(states: Tensor) -> Tensor:
        states = states.contiguous()
        result = states.new_empty(*states.shape[:-1], out)
        function(sizes, data, states.numel() // size, states.data_ptr(), result.data_ptr())
        return result

    of.__dict__["held"] = tensors
    return of
