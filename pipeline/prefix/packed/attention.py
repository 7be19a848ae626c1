"""Attention of packed examples to themselves and to a shared prefix, by the fastest way there is.

On a CPU with a C++ compiler this project's own kernel does all of it in one call; on CUDA,
FlexAttention does; torch's operators serve every other case. In each the prefix is attended to
once for all examples and never copied for a batch.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.packed.flex import flex_attention_to_prefix
from pipeline.prefix.packed.kernel.library import attention_backward, attention_forward, available
from pipeline.prefix.packed.operators import attention_by_operators

Tensor = torch.Tensor


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    lengths: list[int],
    scaling: float,
) -> Tensor:
    """Causal attention within each example, and of every position to the prefix.

    Args:
        query: `[num_heads, tokens, head_dim]`, examples one after another.
        key, value: `[num_kv_heads, tokens, head_dim]`.
        prefix_key, prefix_value: `[num_kv_heads, p, head_dim]`, or None for no prefix.
        lengths: tokens of each example; their sum is `tokens`.
        scaling: what scores are multiplied by before the softmax.

    Returns:
        `[num_heads, tokens, head_dim]` in the query's dtype.
    """
    arguments = query, key, value, prefix_key, prefix_value, lengths, scaling
    if query.device.type == "cuda":
        return flex_attention_to_prefix(*arguments)
    if not available(query, key, value):
        return attention_by_operators(*arguments)
    if prefix_key is None or prefix_value is None:
        prefix_key = prefix_value = key[:, :0].detach()
    result: Tensor = _KernelAttention.apply(
        query, key, value, prefix_key.float(), prefix_value.float(), lengths, scaling
    )
    return result


class _KernelAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        lengths: list[int],
        scaling: float,
    ) -> Tensor:
        states = query, key, value, prefix_key, prefix_value
        out, lse = attention_forward(*states, lengths, scaling)
        ctx.save_for_backward(*states, out, lse)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        gradients = attention_backward(
            grads[0],
            query,
            key,
            value,
            prefix_key,
            prefix_value,
            out,
            lse,
            ctx.lengths,
            ctx.scaling,
            for_input=any(ctx.needs_input_grad[:3]),
        )
        return *gradients, None, None
