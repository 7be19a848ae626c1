"""Where a prefix can start, beyond the first tokens of a text's KV cache."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.encoder import Shapes, flatten, unflatten
from pipeline.prefix.starts.from_text import kv_prefix_from_tokens


def random_kv_prefix(
    shapes: Shapes, num_virtual_tokens: int, scale: float, generator: torch.Generator
) -> KVPrefix:
    """Normal noise of standard deviation `scale`; 1.0 is PEFT's start."""
    if not scale > 0:
        raise PrefixError(f"scale is {scale}; it must be above 0")
    flat = torch.randn(num_virtual_tokens, _width(shapes), generator=generator) * scale
    return unflatten(flat, shapes)


def zero_kv_prefix(shapes: Shapes, num_virtual_tokens: int) -> KVPrefix:
    """Keys and values of zero, as PEFT's `init_weights="zero"`: at first every virtual token takes
    attention like a key of score 0, and gives nothing."""
    return unflatten(torch.zeros(num_virtual_tokens, _width(shapes)), shapes)


def kv_prefix_from_words(
    frozen_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: list[str] | None,
    num_virtual_tokens: int,
    generator: torch.Generator,
) -> KVPrefix:
    """The KV cache of words, repeated to the prefix's length (Li and Liang 2021, section 7.4).

    Without `words`, of tokens drawn from the vocabulary, special tokens left out.
    """
    if words is not None:
        ids = tokenizer.encode(" ".join(words), add_special_tokens=False)
        if not ids:
            raise PrefixError("words: have no tokens; give words, or none to draw them")
        repeated = ids * -(-num_virtual_tokens // len(ids))
        return kv_prefix_from_tokens(frozen_model, repeated[:num_virtual_tokens])
    ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    drawn = torch.randint(len(ordinary), (num_virtual_tokens,), generator=generator)
    return kv_prefix_from_tokens(frozen_model, torch.tensor(ordinary)[drawn])


def spaced_chunks(tokens: list[int], most: int, chunk_tokens: int) -> list[int]:
    """Chunks of a long text, such that every first part of them is spread over all of it.

    Chunks are taken in bit-reversed order (the start, the middle, the quarters, ...), so that one
    KV computation serves all prefix lengths. Returns up to `most` tokens.
    """
    if chunk_tokens < 1:
        raise PrefixError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    chunks = [tokens[i : i + chunk_tokens] for i in range(0, len(tokens), chunk_tokens)]
    if len(chunks) > 1 and len(chunks[-1]) < chunk_tokens:
        chunks.pop()
    bits = max(1, (len(chunks) - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(1 << bits))
    spread = [token for index in order if index < len(chunks) for token in chunks[index]]
    return spread[:most]


def stretched_kv_prefix(kv: KVPrefix, num_virtual_tokens: int) -> KVPrefix:
    """A trained prefix at another length: cut to its first tokens, or each repeated evenly.

    A virtual token that stands k times takes k times the attention it took alone: the start of a
    longer prefix is near the shorter one, not equal to it.
    """
    if num_virtual_tokens <= len(kv):
        return kv[:num_virtual_tokens]
    index = torch.arange(num_virtual_tokens) * len(kv) // num_virtual_tokens
    longer = unflatten(flatten(kv)[index], kv.shapes)
    return replace(kv, keys=longer.keys, values=longer.values)


def _width(shapes: Shapes) -> int:
    return sum(k[0] * k[1] + v[0] * v[1] for k, v in shapes)
