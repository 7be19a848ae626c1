"""Greedy decoding of packed examples: no padding, no copy of the prefix, rows leaving as they end.

The inputs are prefilled in one packed row, in which their targets can be scored as well; each step
then packs one token a row. Where `pipeline.prefix.packed.kernel` serves the model's shapes.
"""

from collections.abc import Iterator

import torch

from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.logits import packed_step


def greedy(
    model: torch.nn.Module,
    prefix: KVPrefix | None,
    cache: PackedCache,
    first: torch.Tensor,
    most: int,
    ends: set[int],
) -> Iterator[tuple[int, int]]:
    """Decode rows whose inputs are in the cache; yields (row, token) as they come.

    Args:
        model: the frozen model.
        prefix: what stands before every row.
        cache: the prefilled rows; used up.
        first: logits `[rows, vocabulary]` after each row's input.
        most: tokens a row at the most.
        ends: tokens that end a row, yielded like others.
    """
    tokens = first.argmax(-1)
    for step in range(most):
        chosen = tokens.tolist()
        yield from zip(cache.rows, chosen, strict=True)
        going = [i for i, token in enumerate(chosen) if token not in ends]
        if not going or step == most - 1:
            return
        cache.rows = [cache.rows[i] for i in going]
        logits = packed_step(model, tokens[going], prefix, cache)
        cache.advance()
        tokens = logits.argmax(-1)
