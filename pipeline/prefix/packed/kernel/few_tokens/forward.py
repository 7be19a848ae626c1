"""A module's forward that the kernel computes for few tokens, and its own for all else."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound

Forward = Callable[..., Any]
Forwards = Iterator[tuple[nn.Module, Forward]]
"""Modules, and the forward of each by the kernel."""


def forward_of(
    own: Forward, by_kernel: Callable[[Tensor], Tensor], bound: Bound, size: int, rows: int = 1
) -> Forward:
    """The forward of a module of states `[..., size]`, of so many rows a token."""

    def forward(*given: Any, **named: Any) -> Any:
        if len(given) == 1 and not named and bound.holds(given[0], size, rows):
            return by_kernel(given[0])
        return own(*given, **named)

    return forward
