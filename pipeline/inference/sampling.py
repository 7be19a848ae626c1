"""Sampling from random numbers of one's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class DrawingFrom(TorchFunctionMode):
    """Within it, in this thread, tokens are drawn from `generator`.

    transformers' `generate` draws from torch's one global generator, which everything else in the
    process moves on; a seed would give another text with other requests beside it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The call itself, `torch.multinomial` with the generator."""
        given = kwargs or {}
        if func is torch.multinomial:
            given = {**given, "generator": self._generator}
        return func(*args, **given)
