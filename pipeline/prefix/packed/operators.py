"""Shared-prefix attention with torch's operators: without a C++ compiler, and for odd shapes.

A softmax over two sets of keys is the average of the softmaxes over each, weighted by the
exponential of their log-sum-exps. So the prefix is attended to once, by the queries of every
example at once, and is never copied for a batch; each example attends to itself without padding.
The backward pass runs each part's own backward with the merged output and log-sum-exp, which makes
the parts' gradients those of the whole (as ring attention does, Liu et al. 2023, arXiv 2310.01889).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor

# With few keys torch's CPU kernel is slower backward in bfloat16 than in float32, which is also the
# more exact: up to so many keys of an example, and below so many of a prefix.
_FLOAT32_KEYS = 256
_FLOAT32_PREFIX = 64


def attention_by_operators(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention from attention to the prefix and attention to each example."""
    states = call.query, call.key, call.value, call.prefix_key, call.prefix_value
    result: Tensor = _TorchAttention.apply(*states, call.lengths, call.scaling)
    return result


class _TorchAttention(torch.autograd.Function):
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
    ) -> Tensor:
        states = _of_kernel_dtype([query, key, value], max(lengths))
        parts = [
            attend(*example, causal=True, scaling=scaling)
            for example in zip(*(_split(t, lengths) for t in states), strict=True)
        ]
        out, lse = (torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True))
        if prefix_key is not None and prefix_value is not None:
            prefix_out, prefix_lse = attend_prefix(query, prefix_key, prefix_value, scaling)
            out, lse = merge(out, lse, prefix_out.to(out.dtype), prefix_lse)
        out = out[0].to(query.dtype)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, lse)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        need_query, need_key, need_value, need_prefix = ctx.needs_input_grad[:4]
        grad_query = grad_key = grad_value = grad_prefix_key = grad_prefix_value = None
        states = _of_kernel_dtype([grads[0], query, out, key, value], max(ctx.lengths))
        if need_query or need_key or need_value:
            split = (_split(t, ctx.lengths) for t in states)
            parts = [
                _attend_backward(*example, lse=part_lse, causal=True, scaling=ctx.scaling)
                for *example, part_lse in zip(*split, lse.split(ctx.lengths, 2), strict=True)
            ]
            grad_query, grad_key, grad_value = (
                torch.cat(tensors, dim=2)[0] for tensors in zip(*parts, strict=True)
            )
        if prefix_key is not None and (need_query or need_prefix):
            folding = Folding.of(query, prefix_key)
            from_prefix, parts_key, parts_value = _attend_backward(
                *(folding.fold(t) for t in (grads[0], query, out)),
                *folding.keys(prefix_key, prefix_value),
                lse=folding.fold(lse[0].unsqueeze(-1)).squeeze(-1).float(),
                causal=False,
                scaling=ctx.scaling,
            )
            if grad_query is not None:
                grad_query = grad_query.add_(folding.unfold(from_prefix)[0])
            grad_prefix_key, grad_prefix_value = (
                t.sum(0).to(prefix_key.dtype) for t in (parts_key, parts_value)
            )
        grad_query, grad_key, grad_value = (
            None if t is None else t.to(query.dtype) for t in (grad_query, grad_key, grad_value)
        )
        return grad_query, grad_key, grad_value, grad_prefix_key, grad_prefix_value, None, None


def attend_prefix(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention of all queries `[num_heads, tokens, size]` to `[num_kv_heads, p, size]` keys.

    Returns `[1, num_heads, tokens, size]` and the log-sum-exps `[1, num_heads, tokens]`.
    """
    folding = Folding.of(query, prefix_key)
    prefix = folding.keys(prefix_key, prefix_value)
    out, lse = attend(folding.fold(query), *prefix, causal=False, scaling=scaling)
    return folding.unfold(out), folding.unfold(lse.unsqueeze(-1)).squeeze(-1)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from attention over each, and its log-sum-exps."""
    share = torch.sigmoid(other_lse - lse).unsqueeze(-1).to(out.dtype)
    return torch.lerp(out, other, share), torch.logaddexp(lse, other_lse)


def _split(states: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    """`[heads, tokens, size]` as a view `[1, heads, length, size]` of each example."""
    return states[None].split(lengths, 2)


@dataclass(frozen=True)
class Folding:
    """How queries are laid out to attend to the prefix.

    Every query sees all of the prefix, so that the heads of a group can be queries of one head,
    and their tokens be dealt out to `parts`, of which each of torch's threads gets as many.
    """

    parts: int
    kv_heads: int
    heads: int
    tokens: int
    dtype: torch.dtype

    @classmethod
    def of(cls, query: Tensor, prefix_key: Tensor) -> "Folding":
        """The folding of `query` `[num_heads, tokens, size]` for keys `[num_kv_heads, p, size]`."""
        kv_heads, p = prefix_key.shape[:2]
        on_cpu = query.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        dtype = query.dtype
        if on_cpu and p < _FLOAT32_PREFIX:
            dtype = torch.promote_types(dtype, torch.float32)
        parts = threads // math.gcd(threads, kv_heads)
        return cls(parts, kv_heads, query.shape[0], query.shape[1], dtype)

    def fold(self, states: Tensor) -> Tensor:
        """`[num_heads, tokens, size]` as `[parts, num_kv_heads, queries, size]`, zeros last."""
        folded = states.to(self.dtype).reshape(self.kv_heads, -1, states.shape[-1])
        folded = F.pad(folded, (0, 0, 0, -folded.shape[1] % self.parts))
        return folded.unflatten(1, (self.parts, -1)).transpose(0, 1)

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse of `fold`, `[1, num_heads, tokens, size]`."""
        states = folded.transpose(0, 1).flatten(1, 2)[
            :, : self.heads // self.kv_heads * self.tokens
        ]
        return states.reshape(1, self.heads, self.tokens, -1)

    def keys(self, *prefix: Tensor) -> list[Tensor]:
        """Keys and values `[num_kv_heads, p, size]`, the same for each part."""
        return [t.to(self.dtype).expand(self.parts, -1, -1, -1) for t in prefix]


def _of_kernel_dtype(states: list[Tensor], keys: int) -> list[Tensor]:
    """States in the dtype that attention to so many keys is computed in."""
    if states[0].device.type == "cpu" and keys <= _FLOAT32_KEYS:
        dtype = torch.promote_types(states[0].dtype, torch.float32)
        return [t.to(dtype) for t in states]
    return states


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Softmax attention `[batch, heads, tokens, size]`, log-sum-exps `[batch, heads, tokens]`."""
    if _has_kernel(query, value):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
        # Of few scores that are all NaN it makes zeros, as of keys that are all hidden.
        if not bool((lse == 0.0).any()):
            return out, lse
    scores = _scores(query, key, causal, scaling)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp()
    out = (weights @ _repeat(value, query).to(weights.dtype)).to(query.dtype)
    return out, lse


def _attend_backward(
    grad: Tensor,
    query: Tensor,
    out: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    lse: Tensor,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one part; `out` and `lse` are those of the merged attention."""
    if _has_kernel(query, value):
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, scale=scaling
        )
        grad_query, grad_key, grad_value = gradients
        return grad_query, grad_key, grad_value
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
