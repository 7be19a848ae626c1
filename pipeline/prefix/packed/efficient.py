"""Shared-prefix attention of packed examples by torch's memory-efficient attention for CUDA.

It takes float32 and cards without FlashAttention (Rabe & Staats 2021, arXiv 2112.05682). It knows
no groups of heads: the keys of examples are repeated for theirs, those of the prefix are not, since
all queries of a group see the same of them. It is called as an operator for the reason that
`pipeline.prefix.packed.varlen` gives.
"""

import math

import torch

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor
from pipeline.prefix.packed.folding import Folding
from pipeline.prefix.packed.lengths import cu_seqlens, places
from pipeline.prefix.packed.parts import Parts, attention_by_parts

_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
_NO_MASK, _CAUSAL = 0, 1
# Log-sum-exps lie in rows of a multiple of so many.
_ROW = 32
# A backward pass gives each head of a part to one block of threads: so many parts of the queries.
_PARTS = 16


def why_not_efficient(kind: StateKind) -> str | None:
    """Why memory-efficient attention does not take such states; None where it does."""
    if kind.device != "cuda":
        return f"memory-efficient attention does not serve {kind.device}"
    if kind.beyond:
        named = " and ".join(sorted(kind.beyond))
        return f"memory-efficient attention shares no prefix beside {named}"
    if len(kind.dtypes) > 1 or not kind.dtypes <= _DTYPES:
        return "memory-efficient attention takes float32, float16 or bfloat16"
    if len(kind.head_dims) > 1 or min(kind.head_dims) % 8:
        return "memory-efficient attention takes one head size, a multiple of 8"
    return None


def attention_by_efficient(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention of float32, float16 or bfloat16 states on a GPU."""
    return attention_by_parts(EFFICIENT, call)


def _within(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float
) -> tuple[Tensor, Tensor]:
    group = query.shape[0] // key.shape[0]
    states = query, key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    starts, longest = cu_seqlens(lengths, query.device), max(lengths)
    out, lse = _forward(_batch(*states), starts, longest, longest, _CAUSAL, scaling)
    example, place = places(lengths, query.device)
    return out[0].transpose(0, 1), lse[example, :, place].transpose(0, 1)


def _within_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    lengths: list[int],
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads = key.shape[0]
    group = query.shape[0] // kv_heads
    repeated = (t.repeat_interleave(group, 0) for t in (key, value))
    starts, longest = cu_seqlens(lengths, query.device), max(lengths)
    # What no query stands at gets no weight.
    rows = lse.new_full((len(lengths), lse.shape[0], _row(longest)), math.inf)
    example, place = places(lengths, query.device)
    rows[example, :, place] = lse.transpose(0, 1)
    states = _batch(grad, query, *repeated, out)
    grads = _backward(states, rows, starts, longest, longest, _CAUSAL, scaling)
    of_query, of_key, of_value = (t[0].transpose(0, 1) for t in grads)
    return (
        of_query,
        of_key.unflatten(0, (kv_heads, group)).sum(1),
        of_value.unflatten(0, (kv_heads, group)).sum(1),
    )


def _to_prefix(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    folding = Folding.of(query, prefix_key.shape[0], 1, query.dtype)
    states = folding.fold(query), *folding.keys(prefix_key, prefix_value)
    queries, p = states[0].shape[2], prefix_key.shape[1]
    turned = [t.transpose(1, 2) for t in states]
    out, lse = _forward(turned, None, queries, p, _NO_MASK, scaling)
    return folding.unfold(out.transpose(1, 2)), folding.unfold_lse(lse[:, :, :queries])


def _to_prefix_backward(
    grad: Tensor,
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    out: Tensor,
    lse: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    folding = Folding.of(query, prefix_key.shape[0], _PARTS, query.dtype)
    prefix = folding.keys(prefix_key, prefix_value)
    states = folding.fold(grad), folding.fold(query), *prefix, folding.fold(out)
    queries, p = states[0].shape[2], prefix_key.shape[1]
    folded = folding.fold_lse(lse)
    rows = lse.new_full((*folded.shape[:2], _row(queries)), math.inf)
    rows[:, :, :queries] = folded
    turned = [t.transpose(1, 2) for t in states]
    grads = _backward(turned, rows, None, queries, p, _NO_MASK, scaling)
    of_query, of_key, of_value = (t.transpose(1, 2) for t in grads)
    summed = [t.sum(0, dtype=torch.float32) for t in (of_key, of_value)]
    return folding.unfold(of_query), summed[0], summed[1]


EFFICIENT = Parts(_within, _within_backward, _to_prefix, _to_prefix_backward)
"""Both parts by memory-efficient attention."""


def _forward(
    states: list[Tensor],
    starts: Tensor | None,
    queries: int,
    keys: int,
    mask: int,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Of query, key and value `[batch, tokens, heads, size]` the output, as the query, and the
    log-sum-exps `[examples, heads, row]`."""
    sizes = (None, None) if starts is None else (queries, keys)
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(
        *states, None, starts, starts, *sizes, 0.0, mask, True, scale=scaling
    )
    return out, lse


def _backward(
    states: list[Tensor],
    rows: Tensor,
    starts: Tensor | None,
    queries: int,
    keys: int,
    mask: int,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the output's gradient, query, key, value and output, those of query, key and value."""
    *inputs, out = states
    # In 16 bits the kernel itself multiplies the output with its gradient, and reads no strides.
    out = out.contiguous()
    no_dropout = (rows.new_zeros((), dtype=torch.int64) for _ in range(2))
    sizes = starts, starts, queries, keys
    # Keys in one split: several would add to the same gradient in any order.
    of_query, of_key, of_value, _ = torch.ops.aten._efficient_attention_backward(
        *(*inputs, None, out, *sizes, rows, 0.0, *no_dropout, mask, False),
        scale=scaling,
        num_splits_key=1,
    )
    return of_query, of_key, of_value


def _batch(*states: Tensor) -> list[Tensor]:
    """`[heads, tokens, size]` as `[1, tokens, heads, size]`."""
    return [t.contiguous().transpose(0, 1)[None] for t in states]


def _row(queries: int) -> int:
    return -(-queries // _ROW) * _ROW
