"""transformers' caches: made for a configuration, filled with a prefix's tensors, and read."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache, DynamicLayer, PreTrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
)

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import (
    CONV,
    INDEX_KEYS,
    RECURRENT,
    has_tokens,
    layer_of,
    parts_of_name,
)

_POSITIONS = "indexer_position_ids"
_KEYS_ALONE = (DynamicLayer, DynamicSlidingWindowLayer)


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of this configuration, which keeps every token.

    One that transformers makes of the configuration forgets what has left a sliding window, and a
    shorter prefix could not be cut from it. Where layers cache keys and values alone it is a plain
    one, which grows by a layer when the model asks for it.
    """
    try:
        cache = DynamicCache(config=config)
    except (AttributeError, LookupError, TypeError, ValueError):
        # A kind of layer that transformers has no cache for: the model makes its own, or none.
        return DynamicCache()
    if all(type(layer) in _KEYS_ALONE for layer in cache.layers):
        return DynamicCache()
    cache.layers = [_keeping_all(layer) for layer in cache.layers]
    return cache


def _keeping_all(layer: Any) -> Any:
    if type(layer) is DynamicSlidingWindowLayer:
        return DynamicLayer()
    if type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
        return LinearAttentionAndFullAttentionLayer(number_of_states=layer.number_of_states)
    return layer


def recurs(config: PreTrainedConfig) -> bool:
    """Whether some layer of a model of this configuration caches a state."""
    layers = empty_cache(config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def chooses(config: PreTrainedConfig) -> bool:
    """Whether some layer of a model of this configuration caches index keys."""
    return any(index_update(layer) is not None for layer in empty_cache(config).layers)


def attends(layer: Any) -> bool:
    """Whether a cache's layer holds keys and values `[batch, heads, tokens, dim]`."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    return keys is not None and values is not None and keys.ndim == 4


def beside_keys(layer: Any) -> dict[tuple[str, int], torch.Tensor]:
    """What a cache's layer holds besides keys and values, by kind and number, with its batch.

    `conv` and `recurrent` of recurrent layers; any other tensor by its attribute's name, index keys
    `[batch, tokens, ...]`. Positions, which a cache can be told, are left out.
    """
    found: dict[tuple[str, int], torch.Tensor] = {}
    of_states = {"conv_states": CONV, "recurrent_states": RECURRENT}
    is_recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    for name, value in vars(layer).items():
        if name in ("keys", "values", _POSITIONS) or name.startswith("_"):
            continue
        if name in INDEX_KEYS and value is not None:
            found[name, 0] = value.movedim(-2, 1)
            continue
        kind = of_states.get(name, name) if is_recurrent else name
        held = value if isinstance(value, dict) else {0: value}
        for number, tensor in enumerate(held.values()):
            if isinstance(tensor, torch.Tensor):
                found[kind, number] = tensor
    return found


def position_axes(layer: Any) -> int:
    """In how many dimensions a cache's layer keeps the positions of its index keys; 0 for none."""
    positions = getattr(layer, _POSITIONS, None)
    return 0 if positions is None else int(positions.shape[0])


def tell_positions(layer: Any, axes: int, rows: int, p: int, device: torch.device) -> None:
    """Tell a cache's layer that what it holds stands at positions 0 to p-1."""
    setattr(layer, _POSITIONS, torch.arange(p, device=device).expand(axes, rows, -1))


def filled(
    config: PreTrainedConfig | None,
    keys: tuple[torch.Tensor, ...],
    values: tuple[torch.Tensor, ...],
    layers: tuple[int, ...] | None,
    states: dict[str, torch.Tensor],
    rows: int,
) -> DynamicCache:
    """transformers' own cache of these tensors, named as in `KVPrefix`, copied for each row.

    Raises PrefixError where the configuration's layers are others, or where one is needed.
    """
    if config is None and (states or layers is not None):
        raise PrefixError(
            "a plain cache has an entry for every layer; this prefix has not: give the "
            "configuration of a model that has such layers, as in kv.to_cache(config=...)"
        )
    batched = [
        tuple(tensor.expand(rows, *tensor.shape).clone() for tensor in pair)
        for pair in zip(keys, values, strict=True)
    ]
    if config is None:
        return DynamicCache(batched)
    cache = DynamicCache(config=config)
    attending = range(len(keys)) if layers is None else layers
    # A layer with index keys of its own may attend to another one's keys and values.
    without = {layer_of(name) for name in states if has_tokens(name)} - {*attending}
    wanted = [
        i
        for i, layer in enumerate(cache.layers)
        if isinstance(layer, CacheLayerMixin) and i not in without
    ]
    if keys and list(attending) != wanted:
        raise PrefixError(
            f"the model's attention layers are {wanted}, the prefix is for {list(attending)}; a "
            "plain cache needs keys and values in all of them"
        )
    for index, pair in zip(attending, batched, strict=True):
        cache.layers[index].update(*pair)
    for name, state in states.items():
        index, kind, number = parts_of_name(name)
        layer = cache.layers[index] if index < len(cache.layers) else None
        batch = state.expand(rows, *state.shape).clone()
        if update := index_update(layer) if kind in INDEX_KEYS else None:
            update(batch.movedim(1, -2))
            continue
        if not isinstance(layer, LinearAttentionCacheLayerMixin) or kind not in (CONV, RECURRENT):
            raise PrefixError(f"the model's cache has no place for {name}")
        _fill(layer, kind, number, batch)
    return cache


def index_update(layer: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What appends index keys `[batch, ..., tokens, dim]` to a cache's layer; None where none."""
    found = (getattr(layer, name, None) for name in ("update_indexer", "update_index"))
    return next((update for update in found if update is not None), None)


def _fill(layer: Any, kind: str, number: int, state: torch.Tensor) -> None:
    if kind == CONV:
        layer.lazy_initialization(conv_states=state, state_idx=number)
        layer.conv_states[number] = state
    else:
        layer.lazy_initialization(recurrent_states=state, state_idx=number)
        layer.recurrent_states[number] = state
    layer.has_previous_state[number] = True


def holds_tokens(cache: Cache) -> bool:
    """Whether a transformers cache has been through a forward pass."""
    if any(isinstance(layer, CacheLayerMixin) for layer in cache.layers):
        return bool(cache.get_seq_length())
    recurrent = [x for x in cache.layers if isinstance(x, LinearAttentionCacheLayerMixin)]
    return any(any(layer.has_previous_state.values()) for layer in recurrent)


def length_of(cache: Cache) -> int | None:
    """How many tokens a cache holds; None where no layer of it says so."""
    lengths = [int(layer.keys.shape[2]) for layer in cache.layers if attends(layer)]
    return min(lengths, default=None)
