"""What a cache holds of a text, as a prefix."""

from typing import Any

import torch
from transformers.cache_utils import DummyLayer

from pipeline.prefix.caches import attends, beside_keys, length_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import (
    has_tokens,
    index_of,
    named_layers,
    refuse_uncarried,
    state_name,
)


def prefix_of(
    past_key_values: Any,
    num_virtual_tokens: int,
    is_ours: bool = False,
    name: str = "past_key_values",
) -> KVPrefix:
    """The first tokens of a transformers `Cache` of one row as a prefix, float32.

    A state stands for all tokens of the cache, so that one with states is taken whole. A cache that
    is ours (`is_ours`) is used up: nothing is there twice. `name` is what an error calls it.

    Raises:
        PrefixError: when it holds several rows, or fewer tokens than asked for in some layer, or
            states of more.
    """
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    attention: list[int] = []
    states: dict[str, torch.Tensor] = {}
    held = length_of(past_key_values)
    for index, layer in enumerate(past_key_values.layers):
        beside = beside_keys(layer)
        if not attends(layer) and not beside:
            if not isinstance(layer, DummyLayer):
                raise PrefixError(f"layer {index} of {name} holds no keys and values")
            continue
        refuse_uncarried((state_name(index, *which) for which in beside), name)
        if attends(layer):
            _refuse_rows(layer.keys, name)
            _refuse_fewer_than(num_virtual_tokens, index, layer.keys.shape[2], name)
            attention.append(index)
            for kept, tensor in ((keys, layer.keys), (values, layer.values)):
                kept.append(_own(tensor[0, :, :num_virtual_tokens].float(), is_ours))
            if is_ours:
                # Buffers and all, before the next layer's tensors are cast.
                past_key_values.layers[index] = layer = None
                del tensor
        for which, tensor in beside.items():
            _refuse_rows(tensor, name)
            state = tensor[0].float() if tensor.is_floating_point() else tensor[0]
            called = state_name(index, *which)
            if has_tokens(called):
                _refuse_fewer_than(num_virtual_tokens, index, len(state), name)
                state = state[:num_virtual_tokens]
            states[called] = _own(state, is_ours)
    if not (keys or states):
        raise PrefixError(f"{name} holds no keys and values, so there is nothing to make one of")
    if len(index_of(states)) < len(states) and held not in (None, num_virtual_tokens):
        raise PrefixError(
            f"{name} holds states of {held} tokens, which are no states of its first "
            f"{num_virtual_tokens}; compute those tokens alone"
        )
    # Of a model that is spread over devices, each layer's are on another.
    device = (*keys, *states.values())[0].device
    return KVPrefix(
        tuple(keys),
        tuple(values),
        layers=named_layers(attention, states),
        states=states,
        length=num_virtual_tokens,
    ).to(device)


def _own(tensor: torch.Tensor, is_ours: bool) -> torch.Tensor:
    return tensor.contiguous() if is_ours else tensor.clone()


def _refuse_rows(tensor: torch.Tensor, name: str) -> None:
    if tensor.shape[0] != 1:
        raise PrefixError(f"{name} holds {tensor.shape[0]} rows; a prefix comes from one")


def _refuse_fewer_than(num_virtual_tokens: int, index: int, held: int, name: str) -> None:
    if held < num_virtual_tokens:
        raise PrefixError(
            f"layer {index} of {name} holds {held} tokens, fewer than "
            f"the {num_virtual_tokens} virtual tokens asked for"
        )
