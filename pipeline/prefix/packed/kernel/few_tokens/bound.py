"""Which layers and states the kernel computes few tokens of."""

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_lanes


@dataclass(frozen=True)
class Bound:
    """The dtype of a model, and the most tokens that its layers take from the kernel."""

    dtype: torch.dtype
    tokens: int

    def holds(self, states: Any, size: int, rows: int = 1) -> bool:
        """Whether states `[..., size]` are those of few tokens, of `rows` rows at the most each.

        No gradient goes through the kernel.
        """
        return (
            isinstance(states, Tensor)
            and states.dtype == self.dtype
            and states.shape[-1] == size
            and states.numel() <= self.tokens * rows * size
            and not torch.is_grad_enabled()
        )

    def serves(self, layer: Any) -> TypeGuard[nn.Linear]:
        """Whether something is a plain linear layer of these."""
        # What adapts or moves weights has classes or a forward of its own.
        if type(layer) is not nn.Linear or not is_plain(layer) or not self.has(layer.weight):
            return False
        return layer.bias is None or self.has(layer.bias)

    def has(self, weight: Any) -> bool:
        """Whether a weight is as the kernel takes it."""
        # What is quantized is of a class that has no numbers at its address.
        if type(weight) not in (Tensor, nn.Parameter) or weight.device.type != "cpu":
            return False
        return weight.dtype == self.dtype and weight.is_contiguous()


def is_plain(module: nn.Module) -> bool:
    """Whether a module computes what its class says, with no hook that sees or changes it."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not hooks and "forward" not in module.__dict__


def bound_of(model: nn.Module) -> Bound | None:
    """The bound of a model's layers; None where the kernel has nothing to bring."""
    first = next(model.parameters(), None)
    if first is None or first.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    most = most_tokens(first.dtype)
    return Bound(first.dtype, most) if most else None


@cache
def most_tokens(dtype: torch.dtype) -> int:
    """How many tokens of such a model's layers the kernel computes; torch is faster for more.

    By `python -m benchmarks.decoding --threads 2 --rows 8,16,32,64`. 0 where there is no kernel.
    """
    # Builds of torch without oneDNN have products of their own.
    if kernel_lanes() is None or not torch.backends.mkldnn.is_available():
        return 0
    if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 12
    return 64 if dtype in NAMES else 0
