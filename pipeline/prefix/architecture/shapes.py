"""The shapes of keys and values in every layer of a model."""

import torch
from transformers import DynamicCache, PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import (
    evaluating,
    is_decoder_only,
    on_tokens_alone,
    places_of,
    shapes_of,
)
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.parameters.config import PARTS, PrefixConfig
from pipeline.prefix.parameters.encoder import Shapes


@torch.no_grad()
def kv_shapes(model: PreTrainedModel) -> Shapes:
    """For each layer `(num_kv_heads, head_dim)` of keys and values, as they enter the cache.

    Read from a forward pass over one token, since configurations name them in many ways. Raises
    PrefixError when the model fills no KV cache.
    """
    cache = DynamicCache()
    with evaluating(model), on_tokens_alone(model):
        model(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=input_device(model)),
            past_key_values=cache,
            use_cache=True,
        )
    shapes: Shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.ndim != 4:
            break
        shapes.append(((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])))
    if not shapes or len(shapes) != len(cache.layers):
        raise PrefixError(
            f"{type(model).__name__} does not keep keys and values of every layer in a KV cache, "
            "so it has no place for a prefix"
        )
    return shapes


def adapter_shapes(model: PreTrainedModel) -> Shapes:
    """The shapes of what PEFT gives a prefix: of an encoder-decoder the decoder alone."""
    if is_decoder_only(model):
        return kv_shapes(model)
    return shapes_of(places_of(model, ("decoder",) if model.config.is_encoder_decoder else PARTS))


def chosen_shapes(shapes: Shapes, config: PrefixConfig) -> Shapes:
    """The shapes of the layers that get a prefix. Raises PrefixError for one there is not."""
    if config.layers is None:
        return shapes
    if config.layers[-1] >= len(shapes):
        raise PrefixError(
            f"layers names {config.layers[-1]}, but the model's layers are 0 to {len(shapes) - 1}"
        )
    return [shapes[index] for index in config.layers]
