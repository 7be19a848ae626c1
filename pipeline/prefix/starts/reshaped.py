"""Other lengths of what there is: a long text in few tokens, a trained prefix stretched."""

from dataclasses import replace

import torch

from pipeline.prefix.chosen import CHOSEN
from pipeline.prefix.demonstrated import DEMONSTRATIONS
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.flat import flatten, unflatten


def spaced_chunks(tokens: list[int], most: int, chunk_tokens: int) -> list[int]:
    """Chunks of a long text, such that every first part of them is spread over all of it.

    Chunks are taken in bit-reversed order (the start, the middle, the quarters, ...), so that one
    KV computation serves all prefix lengths. After all of them stands what is left behind the last
    whole one, so that a text gives as many tokens as it has. Returns up to `most` tokens.
    """
    if chunk_tokens < 1:
        raise PrefixError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    *chunks, rest = (tokens[i : i + chunk_tokens] for i in range(0, len(tokens) + 1, chunk_tokens))
    bits = max(1, (len(chunks) - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(1 << bits))
    spread = [token for index in order if index < len(chunks) for token in chunks[index]]
    return [*spread, *rest][:most]


def stretched_kv_prefix(kv: KVPrefix, num_virtual_tokens: int) -> KVPrefix:
    """A trained prefix at another length: cut to its first tokens, or each repeated evenly.

    A virtual token that stands k times takes k times the attention it took alone: the start of a
    longer prefix is near the shorter one, not equal to it. Raises PrefixError for one with states,
    which have no tokens.
    """
    if num_virtual_tokens <= len(kv):
        return kv[:num_virtual_tokens]
    if "state" in kv.kinds:
        raise PrefixError(
            "a prefix with states cannot be stretched, since a state has no tokens that could be "
            "repeated; start from one of the same length, or from kv.of_kinds(('attention',))"
        )
    index = torch.arange(num_virtual_tokens) * len(kv) // num_virtual_tokens
    longer = unflatten(flatten(kv)[index], kv.shapes)
    states = {name: keys[index] for name, keys in kv.states.items()}
    of_tokens = (DEMONSTRATIONS, CHOSEN)
    metadata = {key: text for key, text in kv.metadata.items() if key not in of_tokens}
    return replace(kv, keys=longer.keys, values=longer.values, states=states, metadata=metadata)
