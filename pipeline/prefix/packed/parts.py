"""Shared-prefix attention from two attentions, within the examples and to the prefix.

A softmax over two sets of keys is the average of the softmaxes over each, weighted by the
exponential of their log-sum-exps. So the prefix is attended to once, by the queries of every
example at once, and is never copied for a batch; each example attends to itself without padding.
The backward pass runs each part's own backward with the merged output and log-sum-exp, which makes
the parts' gradients those of the whole (as ring attention does, Liu et al. 2023, arXiv 2310.01889).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor


@dataclass(frozen=True)
class Parts:
    """The kernels of both parts: torch's for a CPU, for a GPU, or its plain operators.

    Shapes are those of `PackedAttentionCall`; a prefix may be of another dtype than the query.
    Outputs are `[num_heads, tokens, head_dim]`, log-sum-exps of the scaled scores float32
    `[num_heads, tokens]`; a backward pass is given those of the whole, merged attention.

    Attributes:
        within: causal attention of each example to itself: output and log-sum-exps, of
            `(query, key, value, lengths, scaling)`.
        within_backward: gradients of query, key and value, of
            `(grad, query, key, value, out, lse, lengths, scaling)`.
        to_prefix: attention of all queries to the prefix, of
            `(query, prefix_key, prefix_value, scaling)`.
        to_prefix_backward: gradients of query, prefix keys and prefix values, of
            `(grad, query, prefix_key, prefix_value, out, lse, scaling)`; those of the prefix are
            summed over queries in float32 at least.
    """

    within: Callable[[Tensor, Tensor, Tensor, list[int], float], tuple[Tensor, Tensor]]
    within_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    to_prefix: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    to_prefix_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def attention_by_parts(parts: Parts, call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention without terms, `[num_heads, tokens, head_dim]`, the query's dtype."""
    states = call.query, call.key, call.value, call.prefix_key, call.prefix_value
    result: Tensor = _Merged.apply(*states, call.lengths, call.scaling, parts)
    return result


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from attention over each, and its log-sum-exps.

    Float32 at least, whatever the parts are.
    """
    dtype = torch.promote_types(out.dtype, torch.float32)
    share = torch.sigmoid(other_lse - lse).unsqueeze(-1).to(dtype)
    return torch.lerp(out.to(dtype), other.to(dtype), share), torch.logaddexp(lse, other_lse)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        lengths: list[int],
        scaling: float,
        parts: Parts,
    ) -> Tensor:
        out, lse = parts.within(query, key, value, lengths, scaling)
        if prefix_key is not None and prefix_value is not None:
            to_prefix = parts.to_prefix(query, prefix_key, prefix_value, scaling)
            out, lse = merge(out, lse, *to_prefix)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, lse)
        ctx.lengths, ctx.scaling, ctx.parts = lengths, scaling, parts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        need_query, need_key, need_value, need_prefix = ctx.needs_input_grad[:4]
        parts: Parts = ctx.parts
        grad_query = grad_key = grad_value = grad_prefix_key = grad_prefix_value = None
        if need_query or need_key or need_value:
            states = grads[0], query, key, value, out, lse
            found = parts.within_backward(*states, ctx.lengths, ctx.scaling)
            grad_query, grad_key, grad_value = found
        if prefix_key is not None and (need_query or need_prefix):
            states = grads[0], query, prefix_key, prefix_value, out, lse
            found = parts.to_prefix_backward(*states, ctx.scaling)
            from_prefix, grad_prefix_key, grad_prefix_value = found
            if grad_query is not None:
                grad_query = grad_query.add_(from_prefix)
        of_query = (
            None if t is None else t.to(query.dtype) for t in (grad_query, grad_key, grad_value)
        )
        of_prefix = (
            None if t is None else t.to(prefix_key.dtype)
            for t in (grad_prefix_key, grad_prefix_value)
        )
        return *of_query, *of_prefix, None, None, None
