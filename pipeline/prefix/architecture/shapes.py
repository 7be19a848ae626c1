"""The shapes of what every layer of a model caches: keys and values, states, or both."""

import inspect
from dataclasses import dataclass, field, replace

import torch
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DummyLayer

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import (
    evaluating,
    is_decoder_only,
    on_tokens_alone,
    places_of,
    shapes_of,
)
from pipeline.prefix.caches import attends, beside_keys, empty_cache, position_axes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.parameters.config import PARTS, PrefixConfig
from pipeline.prefix.parameters.flat import Shapes
from pipeline.prefix.states import (
    KINDS,
    StateShape,
    StateShapes,
    has_tokens,
    in_order,
    index_of,
    layer_of,
    named_layers,
    refuse_uncarried,
    state_name,
)

_CACHES = ("past_key_values", "cache_params")
# A scale is measured on so many tokens.
_TOKENS = 8


@dataclass(frozen=True)
class CacheShapes:
    """What a model caches of a text, layer by layer.

    Attributes:
        count: entries of its cache.
        attention: of each layer with keys and values their shapes `(num_kv_heads, head_dim)`.
        states: what layers cache besides, by names as in `KVPrefix.states`.
        index: index keys, by names as in `KVPrefix.states`, without their token dimension.
        choosers: of each layer that attends to what an earlier one has chosen, that one.
        axes: of each layer whose cache keeps positions too, in how many dimensions they are.
        layers: what `KVPrefix.layers` is of a prefix with these shapes.
    """

    count: int
    attention: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]
    states: StateShapes = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    index: StateShapes = field(default_factory=dict)
    choosers: dict[int, int] = field(default_factory=dict)
    axes: dict[int, int] = field(default_factory=dict)

    @property
    def kv(self) -> Shapes:
        """The shapes of keys and values alone, of the layers that have them."""
        return list(self.attention.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a prefix of this model can be made of: "attention", "state", or both."""
        has = {"attention": bool(self.attention), "state": bool(self.states)}
        return tuple(kind for kind in KINDS if has[kind])


def cache_argument_of(model: PreTrainedModel) -> str:
    """The name under which a model takes its cache: Mamba's kin have one of their own."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in _CACHES if name in parameters), _CACHES[0])


def cache_shapes(model: PreTrainedModel) -> CacheShapes:
    """The shapes of what a model caches.

    Read from a forward pass over one token, since configurations name them in many ways. Raises
    PrefixError when the model fills no cache, or caches what a prefix cannot carry.
    """
    cache = cache_of(model, 1)
    attention: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
        index: (_per_token(layer.keys), _per_token(layer.values))
        for index, layer in enumerate(cache.layers)
        if attends(layer)
    }
    states = {
        state_name(index, *which): tensor
        for index, layer in enumerate(cache.layers)
        for which, tensor in beside_keys(layer).items()
    }
    used = {*attention, *map(layer_of, states)}
    if not used or any(index not in used for index in _unmarked(cache)):
        raise PrefixError(
            f"{type(model).__name__} does not keep keys and values of every layer in a KV cache, "
            "so it has no place for a prefix"
        )
    refuse_uncarried(states, f"the cache of {type(model).__name__}")
    beside = in_order(_measured(model, states)) if states else {}
    index = index_of(beside)
    recurrent = {name: shape for name, shape in beside.items() if name not in index}
    if both := set(map(layer_of, index)) & set(map(layer_of, recurrent)):
        raise PrefixError(
            f"layer {min(both)} of {type(model).__name__} has index keys and a state, which a "
            "prefix does not carry together, so it has no place for one"
        )
    return CacheShapes(
        1 + max(used),
        attention,
        recurrent,
        named_layers(attention, states),
        index,
        choosers_of(cache, list(map(layer_of, index))),
        {i: axes for i, layer in enumerate(cache.layers) if (axes := position_axes(layer))},
    )


def choosers_of(cache: Cache, choosing: list[int]) -> dict[int, int]:
    """Of each layer that attends to what an earlier one has chosen, that one.

    Its cache is of the kind that holds index keys, and holds none.
    """
    kinds = {type(cache.layers[i]) for i in choosing}
    return {
        i: max(before)
        for i, layer in enumerate(cache.layers)
        if type(layer) in kinds and i not in choosing
        if (before := [j for j in choosing if j < i])
    }


def kv_shapes(model: PreTrainedModel) -> Shapes:
    """For each layer with attention `(num_kv_heads, head_dim)` of keys and of values."""
    return cache_shapes(model).kv


def cache_of(model: PreTrainedModel, tokens: int) -> Cache:
    """The cache of a few tokens from the start of the vocabulary."""
    cache = empty_cache(model.config)
    ids = torch.arange(tokens, device=input_device(model))[None]
    with torch.no_grad(), evaluating(model), on_tokens_alone(model):
        model(input_ids=ids, use_cache=True, **{cache_argument_of(model): cache})
    return cache


def _unmarked(cache: Cache) -> list[int]:
    """The layers of a cache that are not marked as ones that cache nothing."""
    return [i for i, layer in enumerate(cache.layers) if not isinstance(layer, DummyLayer)]


def _measured(model: PreTrainedModel, states: dict[str, torch.Tensor]) -> dict[str, StateShape]:
    """Shape and dtype of states, with the scale that the model's own have."""
    known = int(getattr(model.config.get_text_config(), "vocab_size", _TOKENS))
    layers = cache_of(model, min(_TOKENS, known)).layers
    after = {
        state_name(index, *which): tensor
        for index, layer in enumerate(layers)
        for which, tensor in beside_keys(layer).items()
    }
    return {
        name: StateShape(
            tuple(state.shape[1 + has_tokens(name) :]),
            state.dtype,
            float(after[name].float().square().mean().sqrt()),
        )
        for name, state in states.items()
    }


def _per_token(tensor: torch.Tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[3])


def adapter_shapes(model: PreTrainedModel) -> Shapes:
    """The shapes of what PEFT gives a prefix: of an encoder-decoder the decoder alone.

    Raises PrefixError for a model with layers that do not attend, since PEFT's is for every layer,
    and for one that needs more than keys and values.
    """
    if is_decoder_only(model):
        shapes = cache_shapes(model)
        if shapes.layers is not None:
            raise PrefixError(
                f"{type(model).__name__} attends in layers {list(shapes.layers)} alone, and PEFT's "
                "format holds a prefix for every layer; load a file of KVPrefix.save"
            )
        if shapes.index:
            raise PrefixError(
                f"{type(model).__name__} chooses among keys by index keys, which PEFT's format "
                "does not hold; load a file of KVPrefix.save"
            )
        return shapes.kv
    return shapes_of(places_of(model, ("decoder",) if model.config.is_encoder_decoder else PARTS))


def chosen_shapes(shapes: CacheShapes, config: PrefixConfig) -> CacheShapes:
    """The shapes of what gets a prefix. Raises PrefixError for layers and kinds there are not."""
    kinds = shapes.kinds if config.kinds is None else config.kinds
    if absent := [kind for kind in kinds if kind not in shapes.kinds]:
        raise PrefixError(
            f"kinds names '{absent[0]}', but the model has {' and '.join(shapes.kinds)} alone"
        )
    attention = shapes.attention if "attention" in kinds else {}
    states = shapes.states if "state" in kinds else {}
    index = shapes.index if "attention" in kinds else {}
    layers = shapes.layers if "attention" in kinds else ()
    if config.layers is not None:
        if config.layers[-1] >= shapes.count:
            raise PrefixError(
                f"layers names {config.layers[-1]}, but the model's layers are 0 to "
                f"{shapes.count - 1}"
            )
        having = {*attention, *map(layer_of, states)}
        if absent_layers := [index for index in config.layers if index not in having]:
            raise PrefixError(
                f"layers names {absent_layers[0]}, which has no {' or '.join(kinds)}; those that "
                f"have are {', '.join(map(str, sorted(having)))}"
            )
        attention = {i: pair for i, pair in attention.items() if i in config.layers}
        states = {name: s for name, s in states.items() if layer_of(name) in config.layers}
        index = {name: s for name, s in index.items() if layer_of(name) in config.layers}
        for layer in attention:
            if (chooser := shapes.choosers.get(layer, layer)) not in config.layers:
                raise PrefixError(
                    f"layers names {layer}, which attends to what layer {chooser} has chosen; "
                    f"name {chooser} too"
                )
        layers = tuple(attention)
        left = {"attention": attention, "state": states}
        if config.kinds is not None and (without := [kind for kind in kinds if not left[kind]]):
            of_states = {*map(layer_of, shapes.states)}
            others = sorted(shapes.attention if without[0] == "attention" else of_states)
            named = ", ".join(map(str, others))
            raise PrefixError(
                f"kinds names '{without[0]}', but none of layers {list(config.layers)} has it: "
                f"name one of {named} too, or leave '{without[0]}' out of kinds"
            )
    return replace(shapes, attention=attention, states=states, layers=layers, index=index)
