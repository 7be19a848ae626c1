"""The first layer's keys and values of tokens, which need no other layer.

Before any attention a token's numbers come from itself and from its position, so that the first
layer's keys and values of every word of a vocabulary cost no more than its embeddings.
"""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating, is_decoder_only, run
from pipeline.prefix.architecture.routing import AttentionCall, routed
from pipeline.prefix.caches import empty_cache, recurs

Pair = tuple[torch.Tensor, torch.Tensor]


class _Seen(Exception):  # noqa: N818 - what was looked for, no error
    """Ends a forward pass once the first layer's keys and values are there."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        self.pair = key, value


class _FirstLayer(DynamicCache):
    """A cache that ends the forward pass at the first layer that fills it."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Pair:
        raise _Seen(key_states, value_states)


@torch.no_grad()
def first_layer(model: PreTrainedModel, rows: torch.Tensor) -> Pair:
    """Keys and values `[rows, tokens, heads * head_dim]`, float32, of ids `[rows, tokens]`.

    Of a model with an encoder, its encoder's. Each token has the position of its place in the row.
    """
    rows = rows.to(input_device(model))
    try:
        with evaluating(model):
            if is_decoder_only(model):
                cache = _FirstLayer()
                if recurs(model.config):
                    # A layer may recur beside its attention, and asks for its state before.
                    cache.layers = empty_cache(model.config).layers
                model(input_ids=rows, past_key_values=cache, use_cache=True)
            else:
                with routed(model, _end):
                    run(model, rows, rows[:, :1])
    except _Seen as seen:
        states = (each.to(rows.device) for each in seen.pair)
        key, value = (each.transpose(1, 2).flatten(2).float() for each in states)
        return key, value
    raise PipelineError(f"{type(model).__name__} has no attention in its first layer")


def stands_alone(model: PreTrainedModel, vocabulary: int) -> bool:
    """Whether a token's first keys and values are the same whatever stands before it."""
    other = min(vocabulary - 1, 7)
    pairs = first_layer(model, torch.tensor([[5, 6], [other, 6]]) % vocabulary)
    return all(torch.allclose(s[0, 1], s[1, 1], atol=1e-4, rtol=1e-3) for s in pairs)


def _end(call: AttentionCall) -> None:
    raise _Seen(call.key, call.value)
