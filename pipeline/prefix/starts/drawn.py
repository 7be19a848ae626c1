"""Prefixes that no text of the user's is needed for: noise, zeros, words."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.prefix.architecture.parts import is_decoder_only
from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.flat import Shapes, unflattened
from pipeline.prefix.starts.beginning import tokens_before
from pipeline.prefix.starts.from_text import kv_prefix_from_tokens


def random_kv_prefix(
    shapes: Shapes | CacheShapes,
    num_virtual_tokens: int,
    scale: float,
    generator: torch.Generator,
) -> KVPrefix:
    """Normal noise: of standard deviation `scale` in keys and values, 1.0 is PEFT's start.

    `shapes` are a model's `cache_shapes`, or of keys and values alone. States and index keys are
    noise of `scale` times the size of the model's own, which differs from kind to kind and from
    model to model; ids of tokens that a layer remembers are 0.
    """
    if not scale > 0:
        raise PrefixError(f"scale is {scale}; it must be above 0")
    of_cache = _of_cache(shapes)
    flat = torch.randn(num_virtual_tokens, _width(of_cache.kv), generator=generator) * scale
    states = {
        name: torch.randn(state.shape, generator=generator) * (state.scale * scale)
        for name, state in of_cache.states.items()
        if state.is_trained
    }
    states |= _ids_of_zero(of_cache)
    states |= {
        name: torch.randn(num_virtual_tokens, *keys.shape, generator=generator)
        * (keys.scale * scale)
        for name, keys in of_cache.index.items()
    }
    return _prefix(of_cache, flat, states)


def zero_kv_prefix(shapes: Shapes | CacheShapes, num_virtual_tokens: int) -> KVPrefix:
    """Keys and values of zero, as PEFT's `init_weights="zero"`: at first every virtual token takes
    attention like a key of score 0, and gives nothing. States of zero are those before a text, and
    index keys of zero have score 0 among those that attention chooses from. Ids of tokens that a
    layer remembers are 0.

    `shapes` as in `random_kv_prefix`.
    """
    of_cache = _of_cache(shapes)
    p = num_virtual_tokens
    states = {
        name: torch.zeros(state.shape)
        for name, state in of_cache.states.items()
        if state.is_trained
    }
    states |= _ids_of_zero(of_cache)
    states |= {name: torch.zeros(p, *keys.shape) for name, keys in of_cache.index.items()}
    return _prefix(of_cache, torch.zeros(p, _width(of_cache.kv)), states)


def kv_prefix_from_words(
    frozen_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: list[str] | None,
    num_virtual_tokens: int,
    generator: torch.Generator,
) -> KVPrefix:
    """The KV cache of words, repeated to the prefix's length (Li and Liang 2021, section 7.4).

    Without `words`, of tokens drawn from the vocabulary, special tokens left out. Before either
    stands what the tokenizer begins a text with (BOS), the first virtual token then.
    """
    tokens = tokens_of_words(frozen_model, tokenizer, words, num_virtual_tokens, generator)
    kv = kv_prefix_from_tokens(frozen_model, tokens)
    return kv.beginning_text(is_decoder_only(frozen_model) and bool(tokens_before(tokenizer)))


def tokens_of_words(
    frozen_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: list[str] | None,
    num_virtual_tokens: int,
    generator: torch.Generator,
) -> list[int]:
    """The tokens whose KV cache `kv_prefix_from_words` is, for the same arguments."""
    begin = tokens_before(tokenizer) if is_decoder_only(frozen_model) else []
    most = max(num_virtual_tokens - len(begin), 0)
    if words is not None:
        ids = tokenizer.encode(" ".join(words), add_special_tokens=False)
        if not ids:
            raise PrefixError("words: have no tokens; give words, or none to draw them")
        chosen = (ids * -(-num_virtual_tokens // len(ids)))[:most]
    else:
        ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        drawn = torch.randint(len(ordinary), (most,), generator=generator)
        chosen = torch.tensor(ordinary)[drawn].tolist()
    return [*begin, *chosen]


def _of_cache(shapes: Shapes | CacheShapes) -> CacheShapes:
    if isinstance(shapes, CacheShapes):
        return shapes
    return CacheShapes(len(shapes), dict(enumerate(shapes)))


def _ids_of_zero(shapes: CacheShapes) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(state.shape, dtype=torch.long)
        for name, state in shapes.states.items()
        if not state.is_trained
    }


def _prefix(shapes: CacheShapes, flat: torch.Tensor, states: dict[str, torch.Tensor]) -> KVPrefix:
    keys, values = unflattened(flat, shapes.kv)
    return KVPrefix(keys, values, layers=shapes.layers, states=states, length=len(flat))


def _width(shapes: Shapes) -> int:
    return sum(k[0] * k[1] + v[0] * v[1] for k, v in shapes)
