"""What a cache holds of a text, as a prefix."""

from typing import Any

import torch
from transformers.cache_utils import DummyLayer

from pipeline.prefix.caches import attends, beside_keys, length_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import named_layers, refuse_uncarried, state_name


def prefix_of(past_key_values: Any, num_virtual_tokens: int, is_ours: bool = False) -> KVPrefix:
    """The first tokens of a transformers `Cache` of one row as a prefix, float32.

    A state stands for all tokens of the cache, so that one with states is taken whole. A cache that
    is ours (`is_ours`) is used up: nothing is there twice.

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
                raise PrefixError(f"layer {index} of past_key_values holds no keys and values")
            continue
        if attends(layer):
            _refuse_other_than(num_virtual_tokens, index, layer.keys)
            attention.append(index)
            for kept, tensor in ((keys, layer.keys), (values, layer.values)):
                kept.append(_own(tensor[0, :, :num_virtual_tokens].float(), is_ours))
            if is_ours:
                layer.keys = layer.values = None
        refuse_uncarried((state_name(index, *which) for which in beside), "past_key_values")
        for which, tensor in beside.items():
            _refuse_rows(tensor)
            state = tensor[0].float() if tensor.is_floating_point() else tensor[0]
            states[state_name(index, *which)] = _own(state, is_ours)
    if not (keys or states):
        raise PrefixError("past_key_values holds no keys and values; the model fills no KV cache")
    if states and held not in (None, num_virtual_tokens):
        raise PrefixError(
            f"past_key_values holds states of {held} tokens, which are no states of its first "
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


def _refuse_rows(tensor: torch.Tensor) -> None:
    if tensor.shape[0] != 1:
        raise PrefixError(f"past_key_values holds {tensor.shape[0]} rows; a prefix comes from one")


def _refuse_other_than(num_virtual_tokens: int, index: int, keys: torch.Tensor) -> None:
    _refuse_rows(keys)
    if keys.shape[2] < num_virtual_tokens:
        raise PrefixError(
            f"layer {index} of past_key_values holds {keys.shape[2]} tokens, fewer than "
            f"the {num_virtual_tokens} virtual tokens asked for"
        )
