"""The layers of a cache through which a prefix reaches each layer of a model."""

from typing import Any

import torch
from transformers.cache_utils import DummyLayer

from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.injection.index_layer import IndexLayer
from pipeline.prefix.injection.prefix_layer import Pair, PrefixLayer
from pipeline.prefix.injection.state_layers import StateAndPrefixLayer, StateLayer
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import StateShape, has_tokens, layer_of, parts_of_name

States = dict[int, dict[tuple[str, int], torch.Tensor]]
"""Of each layer that recurs its states, by kind and number."""


def initial_states(kv: KVPrefix, shapes: CacheShapes, without_states: frozenset[int]) -> States:
    """What layers go on from, in the model's dtypes; nothing for those of `without_states`."""
    initial: States = {}
    for name, state in kv.states.items():
        layer, kind, number = parts_of_name(name)
        if layer not in without_states and not has_tokens(name):
            dtype = shapes.states[name].dtype
            initial.setdefault(layer, {})[kind, number] = state.to(dtype)
    return initial


def layers_of(kv: KVPrefix, shapes: CacheShapes, initial: States, growing: bool) -> list[Any]:
    """A cache layer for each of the model's, in their order.

    Keys and values of layers that the prefix leaves out are zeros; what has no state begins anew.
    """
    states: dict[int, dict[tuple[str, int], StateShape]] = {}
    for name, shape in shapes.states.items():
        layer, kind, number = parts_of_name(name)
        states.setdefault(layer, {})[kind, number] = shape
    index_names = {layer_of(name): name for name in shapes.index}
    layers: list[Any] = []
    for index in range(shapes.count):
        pair = _pair(kv, shapes, index)
        if index in index_names:
            keys = _index_keys(kv, shapes, index_names[index])
            layers.append(IndexLayer(pair, keys, growing, shapes.axes.get(index, 0)))
            continue
        if index not in states:
            layers.append(DummyLayer() if pair is None else PrefixLayer(pair, growing))
            continue
        number = 1 + max(number for _, number in states[index])
        given = initial.get(index, {})
        layers.append(
            StateLayer(given, number, growing)
            if pair is None
            else StateAndPrefixLayer(given, number, pair, growing)
        )
    return layers


def _pair(kv: KVPrefix, shapes: CacheShapes, index: int) -> Pair | None:
    """Keys and values of a layer, zeros where it has none of the prefix; None without any."""
    if index not in shapes.attention:
        return None
    if (given := kv.layer(index)) is not None:
        return given
    key, value = shapes.attention[index]
    zero = kv.keys[0].new_zeros(()) if kv.keys else torch.zeros(())
    p = len(kv) if kv.keys else 0
    return zero.expand(key[0], p, key[1]), zero.expand(value[0], p, value[1])


def _index_keys(kv: KVPrefix, shapes: CacheShapes, name: str) -> torch.Tensor:
    """Index keys `[p, ..., dim]` of a layer, zeros where it has none of the prefix."""
    shape = shapes.index[name]
    given = kv.states.get(name)
    if given is None:
        device = kv.keys[0].device if kv.keys else None
        given = torch.zeros((), device=device).expand(len(kv) if kv.keys else 0, *shape.shape)
    return given.to(shape.dtype)
