"""The matrices that a prefix's parameters consist of: each layer's keys, each layer's values."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import nn

from pipeline.prefix.parameters.encoder import FlatEncoder, MLPEncoder

Kind = Literal["keys", "values", "projection"]


@dataclass(frozen=True)
class Block:
    """A matrix within a parameter of two dimensions.

    Attributes:
        parameter: whose part it is.
        kind: "keys" or "values" of a layer, `[p, num_kv_heads * head_dim]` of the virtual tokens
            that are trained; "projection", weights of the MLP that yields keys and values.
        dim: along which other blocks stand beside it in the parameter.
        start: where it begins along `dim`.
        size: how far it reaches.
    """

    parameter: torch.Tensor
    kind: Kind
    dim: int
    start: int
    size: int

    def within(self, tensor: torch.Tensor) -> torch.Tensor:
        """Its part of a tensor shaped as the parameter: a view."""
        return tensor.narrow(self.dim, self.start, self.size)


def blocks_of(encoder: nn.Module) -> list[Block]:
    """The matrices of a prefix encoder: every key and value that it trains is in one of them.

    Of an MLP they are the weights of its hidden layer, and those of its last layer that yield a
    layer's keys, or its values. Embedding, biases and states are none.
    """
    if isinstance(encoder, FlatEncoder) and encoder.shapes:
        kinds: tuple[Kind, Kind] = ("keys", "values")
        return [
            Block(encoder.embedding, kinds[at % 2], 1, start, size)
            for at, (start, size) in enumerate(_columns(encoder))
        ]
    if isinstance(encoder, MLPEncoder):
        hidden, _, last = encoder.transform
        assert isinstance(hidden, nn.Linear)
        assert isinstance(last, nn.Linear)
        return [
            Block(hidden.weight, "projection", 0, 0, len(hidden.weight)),
            *(Block(last.weight, "projection", 0, *place) for place in _columns(encoder)),
        ]
    return []


def _columns(encoder: FlatEncoder | MLPEncoder) -> list[tuple[int, int]]:
    """Where each layer's keys, then its values, begin among the columns of `flat`; how many."""
    sizes = [heads * size for pair in encoder.shapes for heads, size in pair]
    return list(zip(accumulate(sizes[:-1], initial=0), sizes, strict=True))
