"""Shared-prefix attention with torch's operators: without a C++ compiler, and for odd shapes.

The parts that `pipeline.prefix.packed.parts` merges, on any device and in any dtype. Of windows,
softcaps and sinks these parts know nothing: `pipeline.prefix.packed.scores` does.
"""

import math

import torch

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor
from pipeline.prefix.packed.folding import Folding
from pipeline.prefix.packed.parts import Parts, attention_by_parts
from pipeline.prefix.packed.scores import attention_by_scores

# With few keys torch's CPU kernel is slower backward in bfloat16 than in float32, which is also the
# more exact: up to so many keys of an example, and below so many of a prefix.
_FLOAT32_KEYS = 256
_FLOAT32_PREFIX = 64


def attention_by_operators(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention from attention to the prefix and attention to each example."""
    if call.terms.names:
        return attention_by_scores(call)
    return attention_by_parts(OPERATORS, call)


def _within(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float
) -> tuple[Tensor, Tensor]:
    states = _of_kernel_dtype([query, key, value], max(lengths))
    examples = zip(*(_split(t, lengths) for t in states), strict=True)
    parts = [attend(*example, causal=True, scaling=scaling) for example in examples]
    out, lse = (torch.cat(tensors, dim=2)[0] for tensors in zip(*parts, strict=True))
    return out, lse


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
    states = _of_kernel_dtype([grad, query, out, key, value], max(lengths))
    split = (_split(t, lengths) for t in states)
    parts = [
        attend_backward(*example, lse=part_lse, causal=True, scaling=scaling)
        for *example, part_lse in zip(*split, lse[None].split(lengths, 2), strict=True)
    ]
    of_query, of_key, of_value = (
        torch.cat(tensors, dim=2)[0] for tensors in zip(*parts, strict=True)
    )
    return of_query, of_key, of_value


def _to_prefix(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    folding = _folding(query, prefix_key)
    prefix = folding.keys(prefix_key, prefix_value)
    out, lse = attend(folding.fold(query), *prefix, causal=False, scaling=scaling)
    return folding.unfold(out), folding.unfold_lse(lse)


def _to_prefix_backward(
    grad: Tensor,
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    out: Tensor,
    lse: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    folding = _folding(query, prefix_key)
    of_query, of_key, of_value = attend_backward(
        *(folding.fold(t) for t in (grad, query, out)),
        *folding.keys(prefix_key, prefix_value),
        lse=folding.fold_lse(lse),
        causal=False,
        scaling=scaling,
    )
    summed = [
        t.sum(0, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (of_key, of_value)
    ]
    return folding.unfold(of_query), summed[0], summed[1]


OPERATORS = Parts(_within, _within_backward, _to_prefix, _to_prefix_backward)
"""Both parts by torch's operators, the CPU's fused kernel among them."""


def _split(states: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    """`[heads, tokens, size]` as a view `[1, heads, length, size]` of each example."""
    return states[None].split(lengths, 2)


def _folding(query: Tensor, prefix_key: Tensor) -> Folding:
    """Its parts are such that each of torch's threads gets as many."""
    kv_heads, p = prefix_key.shape[:2]
    threads = torch.get_num_threads() if query.device.type == "cpu" else 1
    dtype = _kernel_dtype(query, p < _FLOAT32_PREFIX)
    return Folding.of(query, kv_heads, threads // math.gcd(threads, kv_heads), dtype)


def _of_kernel_dtype(states: list[Tensor], keys: int) -> list[Tensor]:
    """States in the dtype that attention to so many keys is computed in."""
    dtype = _kernel_dtype(states[0], keys <= _FLOAT32_KEYS)
    return [t.to(dtype) for t in states]


def _kernel_dtype(states: Tensor, few_keys: bool) -> torch.dtype:
    # The fused kernel of a CPU serves float16 in float32 alone.
    if states.device.type == "cpu" and (few_keys or states.dtype == torch.float16):
        return torch.promote_types(states.dtype, torch.float32)
    return states.dtype


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


def attend_backward(
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
