"""Shared-prefix attention with a copy of the prefix before each example, by one FlashAttention.

Attending to the prefix apart, and merging, is some twenty kernels more a layer and direction. In a
small batch a card waits for launches, not for what they compute, and copies of a short prefix cost
next to nothing. The kernel aligns its causal mask to the last key, so that a query sees the whole
prefix and its own example up to itself.
"""

from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor
from pipeline.prefix.packed.flash import Sequences, last_contiguous, varlen_backward, varlen_forward


def is_short(call: PackedAttentionCall) -> bool:
    """Whether the copies of a prefix have no more tokens than the examples themselves."""
    p = 0 if call.prefix_key is None else call.prefix_key.shape[1]
    return 0 < p * len(call.lengths) <= call.query.shape[1]


def attention_by_joining(call: PackedAttentionCall) -> Tensor:
    """Attention of a call that has a prefix, `[num_heads, tokens, head_dim]`, the query's dtype."""
    states = call.query, call.key, call.value, call.prefix_key, call.prefix_value
    result: Tensor = _Joined.apply(*states, tuple(call.lengths), call.scaling)
    return result


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        lengths: tuple[int, ...],
        scaling: float,
    ) -> Tensor:
        (kv_heads, p, _), device = prefix_key.shape, query.device
        prefix = torch.cat((prefix_key, prefix_value)).to(query.dtype)
        both = torch.cat((prefix, torch.cat((key, value))), 1)
        joined = both.index_select(1, _joined(lengths, p, device)).transpose(0, 1)
        states = last_contiguous(query).transpose(0, 1), joined[:, :kv_heads], joined[:, kv_heads:]
        sizes = _sizes(lengths, p, device)
        out, lse = varlen_forward(*states, *sizes, scaling)
        ctx.save_for_backward(*states, out, lse)
        ctx.lengths, ctx.p, ctx.scaling = lengths, p, scaling
        ctx.prefix_dtype = prefix_key.dtype
        return out.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *states, out, lse = ctx.saved_tensors
        lengths, p, device = ctx.lengths, ctx.p, out.device
        grad = last_contiguous(grads[0]).transpose(0, 1)
        sizes = _sizes(lengths, p, device)
        of_query, *others = varlen_backward(grad, tuple(states), out, lse, *sizes, ctx.scaling)
        joined, kv_heads = torch.cat(others, 1), others[0].shape[1]
        own, copies = _apart(lengths, p, device)
        of_examples = joined.index_select(0, own).transpose(0, 1)
        # The gradient of what was copied is the sum over its copies.
        of_copies = joined.index_select(0, copies).unflatten(0, (len(lengths), p))
        of_prefix = of_copies.sum(0, dtype=torch.float32).to(ctx.prefix_dtype).transpose(0, 1)
        return (
            of_query.transpose(0, 1),
            *(of_examples[:kv_heads], of_examples[kv_heads:]),
            *(of_prefix[:kv_heads], of_prefix[kv_heads:]),
            *(None, None),
        )


def _sizes(lengths: tuple[int, ...], p: int, device: torch.device) -> tuple[Sequences, Sequences]:
    """Of queries, and of the keys with the prefix before each example's."""
    return (
        Sequences.of(lengths, device),
        Sequences.of([p + length for length in lengths], device),
    )


# As in `lengths`: every layer of a batch asks for the same.
@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _joined(lengths: tuple[int, ...], p: int, device: torch.device) -> Tensor:
    """Where in prefix and examples each of the joined tokens comes from, int64."""
    prefix, examples = torch.arange(p), torch.arange(p, p + sum(lengths)).split(lengths)
    return torch.cat([part for own in examples for part in (prefix, own)]).to(device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _apart(lengths: tuple[int, ...], p: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the examples' tokens are among the joined ones, and where the copies', int64."""
    is_copy = torch.cat([torch.arange(p + length) < p for length in lengths])
    return (~is_copy).nonzero()[:, 0].to(device), is_copy.nonzero()[:, 0].to(device)
