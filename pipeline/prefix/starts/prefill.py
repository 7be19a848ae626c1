"""Filling a KV cache with a text of any length: no logits, and a long text in pieces.

Logits of 128,000 tokens over a vocabulary of 128,000 take 67 GB in float32, and are of no use here.
Keys and values are written where they stay, into buffers as long as the text. What a piece takes
besides is its own activations and a mask of piece by tokens so far.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, DynamicLayer, PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.miniature import VOCABULARY, miniature_of
from pipeline.prefix.architecture.parts import evaluating, on_tokens_alone, takes
from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.architecture.routing import AttentionCall, reaches_attention, routed
from pipeline.prefix.architecture.shapes import cache_argument_of
from pipeline.prefix.architecture.spatial import SpatialPositions
from pipeline.prefix.caches import attends, beside_keys, empty_cache
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.growing import GrowingLayer

PIECE = 2048
"""The most tokens that are read at a time."""

_MASK = 2**25
_OTHERWISE = ("attention_chunk_size", "index_topk")
# What an attention call may ask for beside, of which this one knows nothing.
_MORE = ("position_bias", "softcap", "s_aux")
_PROBE, _PROBE_PIECE = 12, 5


@torch.no_grad()
def prefilled(model: PreTrainedModel, tokens: torch.Tensor, piece: int = PIECE) -> DynamicCache:
    """A cache of the tokens `[p]` as a decoder reads them, in the model's dtype.

    More than `piece` tokens are read in pieces, where that gives the same keys and values: a model
    whose rotary embedding changes with the length, or whose queries see chunks or a choice of what
    is before them, reads it whole, and so does one whose states are used for single tokens alone.
    Sliding windows are masks like any other here.
    """
    size = piece_of(len(tokens), piece)
    if len(tokens) > size and not _reads_in_pieces(model, len(tokens)):
        size = len(tokens)
    return _read(model, tokens, size)


def piece_of(tokens: int, most: int = PIECE) -> int:
    """How many tokens of a text of so many are read at a time, where pieces serve."""
    # The mask of a piece is as long as the text.
    return max(1, min(most, _MASK // max(1, tokens)))


def _read(model: PreTrainedModel, tokens: torch.Tensor, size: int) -> DynamicCache:
    cache = cache_for(model, len(tokens))
    extra: dict[str, Any] = {cache_argument_of(model): cache}
    extra |= {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    pieces = shared_keys(model) if size < len(tokens) else nullcontext()
    with evaluating(model), on_tokens_alone(model), SpatialPositions(model).after(0), pieces:
        for part in tokens.split(size):
            model(
                input_ids=part[None].to(input_device(model)),
                use_cache=True,
                **extra,
            )
    return cache


@contextmanager
def shared_keys(model: PreTrainedModel) -> Iterator[None]:
    """Within it torch's attention on a CPU takes keys that several query heads share as they are.

    transformers repeats a layer's keys and values for each of these heads wherever there is a mask,
    since on a GPU torch would. A model with another attention, or elsewhere, stays as it is.
    """
    is_sdpa = model.config._attn_implementation == "sdpa"
    if not (is_sdpa and reaches_attention(model) and input_device(model).type == "cpu"):
        yield
        return

    def share(call: AttentionCall) -> None:
        if call.mask is not None and not any(call.extra.get(name) is not None for name in _MORE):
            call.function = _shared_attention

    with routed(model, share):
        yield


def _shared_attention(
    _: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
    )
    return attended.transpose(1, 2).contiguous(), None


def cache_for(model: PreTrainedModel, tokens: int) -> DynamicCache:
    """An empty cache with room for so many tokens, where its layers hold keys and values alone.

    transformers' own layers grow by a copy for every piece, and have a layer twice meanwhile.
    """
    cache = empty_cache(model.config)
    roomy = partial(GrowingLayer, tokens)
    if cache.layer_class_to_replicate is not None:
        cache.layer_class_to_replicate = roomy
    cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _reads_in_pieces(model: PreTrainedModel, tokens: int) -> bool:
    """Whether pieces give what the whole gives, tried on a small model of the same kind."""
    switch = rotary_switch(model.config)
    settings = vars(model.config.get_text_config())
    if any(settings.get(name) for name in _OTHERWISE) or tokens > (switch or tokens):
        return False
    try:
        small = miniature_of(model)
        ids = torch.arange(_PROBE) * 7 % VOCABULARY
        whole, pieces = (_read(small, ids, size).layers for size in (_PROBE, _PROBE_PIECE))
        pairs = [pair for layers in zip(whole, pieces, strict=True) for pair in _pairs(*layers)]
        return all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in pairs)
    except (PrefixError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False


def _pairs(whole: Any, pieces: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What two layers of caches hold, beside each other."""
    beside = beside_keys(whole), beside_keys(pieces)
    pairs = [(beside[0][which], beside[1][which]) for which in beside[0]]
    if attends(whole):
        pairs += [(whole.keys, pieces.keys), (whole.values, pieces.values)]
    return pairs
