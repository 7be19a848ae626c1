"""Shared-prefix attention of packed (varlen) examples by FlashAttention, as torch has it for CUDA.

Within the examples by the kernels of `torch.nn.attention.varlen.varlen_attn`, to the prefix by
those of scaled dot-product attention. They are called as operators, below those functions: a
backward pass has to be given the merged output and log-sum-exps, and autograd's would use its own.
Both take float16 and bfloat16, heads of up to 256 numbers, and groups of query heads as they are
(FlashAttention-2, Dao 2023, arXiv 2307.08691).
"""

import torch
from torch.nn import functional as F

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor
from pipeline.prefix.packed.flash import (
    Sequences,
    deterministic,
    last_contiguous,
    no_dropout,
    varlen_backward,
    varlen_forward,
)
from pipeline.prefix.packed.joined import attention_by_joining, is_short
from pipeline.prefix.packed.parts import Parts, attention_by_parts

_DTYPES = frozenset({torch.float16, torch.bfloat16})
_WIDEST_HEAD = 256
# A backward pass gives each block of keys of a head to one block of threads. So many fill a card
# with some 130 multiprocessors; a short prefix has fewer, so that its queries are dealt out.
_BLOCKS = 256
_KEYS_OF_A_BLOCK = 128


def why_not_varlen(kind: StateKind) -> str | None:
    """Why torch's FlashAttention does not take such queries, keys and values; None if it does."""
    if kind.device != "cuda":
        return f"FlashAttention does not serve {kind.device}"
    if kind.beyond:
        return f"FlashAttention shares no prefix beside {' and '.join(sorted(kind.beyond))}"
    if len(kind.dtypes) > 1 or not kind.dtypes <= _DTYPES:
        return "FlashAttention takes float16 or bfloat16"
    dim = min(kind.head_dims)
    if len(kind.head_dims) > 1 or dim % 8 or dim > _WIDEST_HEAD:
        return f"FlashAttention takes one head size, a multiple of 8 up to {_WIDEST_HEAD}"
    return None


def attention_by_varlen(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention of float16 or bfloat16 states on a GPU."""
    return attention_by_joining(call) if is_short(call) else attention_by_parts(FLASH, call)


def _within(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float
) -> tuple[Tensor, Tensor]:
    sizes = Sequences.of(lengths, query.device)
    queries, keys, values = _tokens_first(query, key, value)
    out, lse = varlen_forward(queries, keys, values, sizes, sizes, scaling)
    return out.transpose(0, 1), lse


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
    upstream, queries, keys, values, result = _tokens_first(grad, query, key, value, out)
    states, sizes = (queries, keys, values), Sequences.of(lengths, query.device)
    grads = varlen_backward(upstream, states, result, lse, sizes, sizes, scaling)
    of_query, of_key, of_value = (t.transpose(0, 1) for t in grads)
    return of_query, of_key, of_value


def _to_prefix(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    prefix = (t.to(query.dtype).unsqueeze(0) for t in (prefix_key, prefix_value))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        last_contiguous(query).unsqueeze(0), *prefix, 0.0, False, False, scale=scaling
    )
    return out.squeeze(0), lse.squeeze(0)


def _to_prefix_backward(
    grad: Tensor,
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    out: Tensor,
    lse: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    (heads, tokens, _), p = query.shape, prefix_key.shape[1]
    parts = max(1, min(tokens, _BLOCKS // (heads * -(-p // _KEYS_OF_A_BLOCK))))
    states = (_dealt(t, parts) for t in (grad, query))
    prefix = (t.to(query.dtype).expand(parts, -1, -1, -1) for t in (prefix_key, prefix_value))
    merged = _dealt(out, parts), _dealt(lse.unsqueeze(-1), parts).squeeze(-1).contiguous()
    with deterministic():
        grads = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            *states,
            *prefix,
            *merged,
            None,
            None,
            -(-tokens // parts),
            p,
            0.0,
            False,
            *no_dropout(query),
            scale=scaling,
        )
    of_query = grads[0].transpose(0, 1).flatten(1, 2).narrow(1, 0, tokens)
    of_key, of_value = (t.sum(0, dtype=torch.float32) for t in grads[1:])
    return of_query, of_key, of_value


FLASH = Parts(_within, _within_backward, _to_prefix, _to_prefix_backward)
"""Both parts by FlashAttention."""


def _tokens_first(*states: Tensor) -> list[Tensor]:
    """`[heads, tokens, size]` as `[tokens, heads, size]`."""
    return [last_contiguous(t).transpose(0, 1) for t in states]


def _dealt(states: Tensor, parts: int) -> Tensor:
    """`[heads, tokens, size]` as `[parts, heads, tokens of a part, size]`, zeros last."""
    padded = F.pad(last_contiguous(states), (0, 0, 0, -states.shape[1] % parts))
    return padded.unflatten(1, (parts, -1)).transpose(0, 1)
