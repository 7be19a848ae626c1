"""Attention Matching (arXiv 2602.16284): a text's cache in fewer keys and values, in closed form.

In each key-value head the tokens are kept to which reference queries attend most, and their values
are replaced by those with which attention gives, by least squares, what the whole text gave. The
paper adds a bias to each kept key, so that few keys take the share of attention that all took. A
plain prefix has no place for it: here the values make up for it.
"""

from collections.abc import Sequence

import torch

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.starts.matching_head import HeadToMatch
from pipeline.prefix.starts.matching_queries import ReferenceQueries, reference_queries
from pipeline.prefix.starts.positions import moved_back

QUERIES = 2048
"""The most reference queries of a key-value head."""


@torch.no_grad()
def attention_matching(
    model: PrefixModel,
    kv: KVPrefix,
    num_virtual_tokens: int,
    examples: Sequence[Sequence[int]],
    most_queries: int = QUERIES,
) -> KVPrefix:
    """A text's cache in `num_virtual_tokens` keys and values, matched head by head.

    Every head keeps tokens of its own. They stay as far from what is read next as they stood: an
    input begins at position p where it began at the text's length T, and all keys move back by
    T - p. What begins the text (BOS) is the first virtual token. With as many virtual tokens as the
    text has, it is the text's cache itself.

    Args:
        model: holds the whole text's KV cache as its prefix.
        kv: that prefix.
        num_virtual_tokens: p.
        examples: token ids of examples as they follow the text, targets included, whose queries
            judge what attention gives.
        most_queries: of a key-value head, evenly spaced over the examples.

    Raises:
        PrefixError: for a text of fewer tokens, for a prefix that is more than a decoder's keys and
            values, and for a model whose attention cannot be matched (see `reference_queries`).
    """
    if kv.states or kv.parts is not None:
        raise PrefixError(
            "only a decoder's keys and values can be matched to fewer of them, and this prefix has "
            "states, index keys or parts of an encoder beside; start from a text's first tokens"
        )
    if num_virtual_tokens > len(kv):
        raise PrefixError(
            f"the text has {len(kv)} cached tokens, fewer than the {num_virtual_tokens} virtual "
            "tokens asked for; use a longer text or a shorter prefix"
        )
    references = reference_queries(model, kv, examples, most_queries)
    layers = [
        _layer(key, value, reference, num_virtual_tokens, kv.begins_text)
        for key, value, reference in zip(kv.keys, kv.values, references, strict=True)
    ]
    keys, values = zip(*layers, strict=True)
    matched = KVPrefix(keys, values, layers=kv.layers)
    with model.frozen() as frozen:
        moved = moved_back(frozen, matched, len(kv) - num_virtual_tokens)
    return moved.beginning_text(kv.begins_text)


def heads_to_match(
    key: torch.Tensor, value: torch.Tensor, reference: ReferenceQueries
) -> list[HeadToMatch]:
    """The key-value heads of a layer, of keys and values `[num_kv_heads, T, dim]`."""
    tensors = (key, value, reference.queries, reference.own_mass, reference.own_output)
    # On the CPU, in float64, which Apple's MPS has not.
    doubles = (tensor.cpu().double() for tensor in tensors)
    return [HeadToMatch(*of_head) for of_head in zip(*doubles, strict=True)]


def _layer(
    key: torch.Tensor, value: torch.Tensor, reference: ReferenceQueries, p: int, begins_text: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys `[num_kv_heads, p, head_dim]` and values of a layer, each head by itself."""
    matched = []
    for head in heads_to_match(key, value, reference):
        chosen = head.tokens(p, first=begins_text)
        kept = head.keys[chosen]
        matched.append((kept, head.matched_values(kept, head.values[chosen])))
    keys, values = (torch.stack(tensors) for tensors in zip(*matched, strict=True))
    return keys.to(key), values.to(value)
