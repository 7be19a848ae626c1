"""Attention of packed examples to themselves and to a shared prefix, merged by log-sum-exp.

A softmax over two sets of keys is the average of the softmaxes over each, weighted by the
exponential of their log-sum-exps. So the prefix is attended to once, by the queries of every
example at once, and is never copied for a batch; each example attends to itself without padding.
The backward pass runs each part's own backward with the merged output and log-sum-exp, which makes
the parts' gradients those of the whole (as ring attention does, Liu et al. 2023, arXiv 2310.01889).
"""

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.rows import Rows, batched, packed

Tensor = torch.Tensor

# Up to this many keys torch's CPU kernel is several times slower backward in bfloat16 than in
# float32, which is also the more exact; above it, bfloat16's smaller tensors win.
_FLOAT32_KEYS = 256


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    rows: list[Rows],
    scaling: float,
) -> Tensor:
    """Causal attention within each example, and of every position to the prefix.

    Args:
        query: `[num_heads, tokens, head_dim]`, examples one after another.
        key, value: `[num_kv_heads, tokens, head_dim]`.
        prefix_key, prefix_value: `[num_kv_heads, p, head_dim]`, or None for no prefix.
        rows: where the examples are, each token in one of them.
        scaling: what scores are multiplied by before the softmax.

    Returns:
        `[num_heads, tokens, head_dim]` in the query's dtype.
    """
    result: Tensor = _MergedAttention.apply(
        query, key, value, prefix_key, prefix_value, rows, scaling
    )
    return result


class _MergedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        rows: list[Rows],
        scaling: float,
    ) -> Tensor:
        out = torch.empty_like(query)
        lse = query.new_empty(
            query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32)
        )
        for group in rows:
            states = (batched(t, group) for t in (query, key, value))
            group_out, group_lse = _attend(*states, True, scaling)
            out[:, group.places] = packed(group_out, group)
            lse[:, group.places] = packed(group_lse, group)
        if prefix_key is not None and prefix_value is not None:
            folded = _fold(query, prefix_key.shape[0])
            prefix_out, prefix_lse = _attend(
                folded, prefix_key[None], prefix_value[None], False, scaling
            )
            prefix_out = _unfold(prefix_out, query.shape[0])
            prefix_lse = prefix_lse.reshape(lse.shape)
            share = torch.sigmoid(prefix_lse - lse).unsqueeze(-1).to(out.dtype)
            out = torch.lerp(out, prefix_out, share)
            lse = torch.logaddexp(lse, prefix_lse)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, lse)
        ctx.rows, ctx.scaling = rows, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = grads[0].contiguous()
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        need_query, need_key, need_value, need_prefix = ctx.needs_input_grad[:4]
        grad_query = grad_key = grad_value = grad_prefix_key = grad_prefix_value = None
        if need_query or need_key or need_value:
            grad_query, grad_key, grad_value = map(torch.empty_like, (query, key, value))
            for group in ctx.rows:
                states = (batched(t, group) for t in (query, key, value, out, lse))
                # Padding repeats real positions: its gradient must not count.
                group_grad = batched(grad, group) * group.is_real[:, None, :, None]
                parts = _attend_backward(group_grad, *states, causal=True, scaling=ctx.scaling)
                for whole, part in zip((grad_query, grad_key, grad_value), parts, strict=True):
                    whole[:, group.places] = packed(part, group)
        if prefix_key is not None and (need_query or need_prefix):
            heads = prefix_key.shape[0]
            folded_query, grad_prefix_key, grad_prefix_value = _attend_backward(
                _fold(grad, heads),
                _fold(query, heads),
                prefix_key[None],
                prefix_value[None],
                _fold(out, heads),
                lse.reshape(1, heads, -1),
                causal=False,
                scaling=ctx.scaling,
            )
            if grad_query is not None:
                grad_query = grad_query + _unfold(folded_query, query.shape[0])
            grad_prefix_key, grad_prefix_value = grad_prefix_key[0], grad_prefix_value[0]
        return grad_query, grad_key, grad_value, grad_prefix_key, grad_prefix_value, None, None


def _fold(states: Tensor, kv_heads: int) -> Tensor:
    """`[num_heads, tokens, size]` as `[1, num_kv_heads, group * tokens, size]`."""
    return states.reshape(1, kv_heads, -1, states.shape[-1])


def _unfold(states: Tensor, heads: int) -> Tensor:
    """The inverse of `_fold`."""
    return states.reshape(heads, -1, states.shape[-1])


def _attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """Softmax attention `[1, heads, tokens, size]` and its log-sum-exps `[1, heads, tokens]`."""
    if _has_kernel(query, value):
        dtype = _kernel_dtype(key)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query.to(dtype), key.to(dtype), value.to(dtype), 0.0, causal, scale=scaling
        )
        return out.to(query.dtype), lse
    scores = _scores(query, key, causal, scaling)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp()
    out = (weights @ _repeat(value, query).to(weights.dtype)).to(query.dtype)
    return out, lse


def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one part; `out` and `lse` are those of the merged attention."""
    if _has_kernel(query, value):
        dtype = _kernel_dtype(key)
        states = (t.to(dtype) for t in (grad, query, key, value, out))
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *states, lse, 0.0, causal, scale=scaling
        )
        grad_query, grad_key, grad_value = gradients
        return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)
    weights = (_scores(query, key, causal, scaling) - lse.unsqueeze(-1)).exp()
    grad_, out_ = grad.to(weights.dtype), out.to(weights.dtype)
    keys, values = (_repeat(t, query).to(weights.dtype) for t in (key, value))
    grad_weights = grad_ @ values.transpose(-1, -2)
    grad_scores = weights * (grad_weights - (grad_ * out_).sum(-1, keepdim=True)) * scaling
    grad_query = grad_scores @ keys
    grad_key = grad_scores.transpose(-1, -2) @ query.to(weights.dtype)
    grad_value = weights.transpose(-1, -2) @ grad_
    return grad_query.to(query.dtype), _reduce(grad_key, key), _reduce(grad_value, value)


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether torch's fused CPU kernel, which also returns the log-sum-exp, takes these."""
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.bfloat16)
        and query.shape[-1] == value.shape[-1]
    )


def _kernel_dtype(key: Tensor) -> torch.dtype:
    return torch.float32 if key.shape[2] <= _FLOAT32_KEYS else key.dtype


def _scores(query: Tensor, key: Tensor, causal: bool, scaling: float) -> Tensor:
    """Scaled scores, float32 at least, `-inf` where causality forbids."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys = _repeat(key, query).to(dtype)
    scores = query.to(dtype) @ keys.transpose(-1, -2) * scaling
    if causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -math.inf)
    return scores


def _repeat(states: Tensor, query: Tensor) -> Tensor:
    """Key or value heads repeated to the number of query heads."""
    return states.repeat_interleave(query.shape[1] // states.shape[1], dim=1)


def _reduce(grad: Tensor, states: Tensor) -> Tensor:
    """The inverse of `_repeat` for gradients: the sum over the heads of a group."""
    return grad.unflatten(1, (states.shape[1], -1)).sum(2).to(states.dtype)
