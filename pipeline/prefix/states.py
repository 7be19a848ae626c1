"""What a layer caches besides keys and values: what it is called, its shape, and its tokens.

A recurrent layer caches the last inputs of its convolution and the state of its recurrence, which
stand for all tokens before, however many. Each is called `<layer>.<kind>`, and `<layer>.<kind>.<n>`
where a layer has several of a kind: `0.conv`, `0.recurrent`, `0.conv.1`.

A kind whose name ends in `_keys` (an indexer's) has a token dimension, its first: `[p, ...]`. Such
a tensor is sliced with the keys that it stands beside and is of the kind "attention"; any other has
one size for every length of text and is of the kind "state".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipeline.prefix.errors import PrefixError

KINDS = ("attention", "state")
"""Keys and values, and what stands for tokens without a token dimension; in this order."""

CONV, RECURRENT = "conv", "recurrent"

INDEX_KEYS = ("indexer_keys", "idx_keys")
"""What attention chooses by among the keys, under the names that transformers' caches give it."""

CARRIED = (CONV, RECURRENT, *INDEX_KEYS)
"""The kinds of states that a prefix carries to a model."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class StateShape:
    """A state as a model caches it, of one row.

    Attributes:
        shape: without a batch dimension.
        dtype: what the model computes it in, often float32 whatever the weights are.
        scale: root mean square of the model's own after a few tokens; means nothing for integers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    scale: float

    @property
    def is_trained(self) -> bool:
        """Whether it is of numbers that a gradient can move; integers are ids of tokens."""
        return self.dtype.is_floating_point

    @property
    def numel(self) -> int:
        """How many numbers it is."""
        return int(torch.Size(self.shape).numel())


StateShapes = Mapping[str, StateShape]
"""The states of a model by name, in the order of `in_order`."""


def state_name(layer: int, kind: str, number: int = 0) -> str:
    """What a layer's state is called."""
    return f"{layer}.{kind}.{number}" if number else f"{layer}.{kind}"


def parts_of_name(name: str) -> tuple[int, str, int]:
    """The layer, the kind and the number of a state. Raises PrefixError for another name."""
    layer, _, rest = name.partition(".")
    kind, _, number = rest.partition(".")
    if not (layer.isdecimal() and kind.isidentifier() and (number or "0").isdecimal()):
        raise PrefixError(f"'{name}' names no state; names are <layer>.<kind>, such as 0.recurrent")
    return int(layer), kind, int(number or 0)


def layer_of(name: str) -> int:
    """The layer that a state is of."""
    return parts_of_name(name)[0]


def has_tokens(name: str) -> bool:
    """Whether a state's first dimension is that of the virtual tokens."""
    return parts_of_name(name)[1].endswith("_keys")


def index_of(states: Mapping[str, _T]) -> dict[str, _T]:
    """Those of some states that have virtual tokens: the index keys."""
    return {name: state for name, state in states.items() if has_tokens(name)}


def in_order(states: Mapping[str, _T]) -> dict[str, _T]:
    """States by layer, then by kind and number."""
    return {name: states[name] for name in sorted(states, key=parts_of_name)}


def named_layers(attention: Iterable[int], states: Iterable[str]) -> tuple[int, ...] | None:
    """What `KVPrefix.layers` is of a model with attention in some layers and states in some.

    None where keys and values are of layers 0, 1, 2, ... and no layer after them has a state.
    """
    layers = tuple(attention)
    beyond = any(layer_of(name) >= len(layers) for name in states)
    return layers if beyond or layers != tuple(range(len(layers))) else None


def refuse_uncarried(names: Iterable[str], owner: str) -> None:
    """Raise PrefixError, which names them, for kinds that a prefix cannot carry."""
    if others := sorted({parts_of_name(name)[1] for name in names} - set(CARRIED)):
        raise PrefixError(
            f"{owner} holds {', '.join(others)} besides keys and values, which a prefix does not "
            "carry, so it has no place for one"
        )
