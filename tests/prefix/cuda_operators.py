"""What torch's CUDA attention operators compute, registered for the CPU under their own names.

So what calls them runs whole without a GPU: torch itself checks names, arguments and their types
against the operators' schemas. The layouts are those of torch 2.13's own kernels.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Tensor = torch.Tensor


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Within it the operators take CPU tensors."""
    library = torch.library.Library("aten", "IMPL")
    for function in (
        *(_flash_attention_forward, _flash_attention_backward),
        *(_scaled_dot_product_flash_attention, _scaled_dot_product_flash_attention_backward),
        *(_efficient_attention_forward, _efficient_attention_backward),
    ):
        library.impl(function.__name__, function, "CPU")
    try:
        yield
    finally:
        library._destroy()


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = query.double() @ key.double().transpose(-1, -2) * scale
    if causal:
        queries, keys = scores.shape[-2:]
        # Aligned to the last key, as FlashAttention does.
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores


def _forward(states: Iterable[Tensor], causal: bool, scale: float) -> Any:
    """`[..., heads, tokens, size]`; groups of query heads share a head of keys."""
    query, key, value = states
    group = query.shape[-3] // key.shape[-3]
    scores = _scores(query, key.repeat_interleave(group, -3), causal, scale)
    out = scores.softmax(-1) @ value.repeat_interleave(group, -3).double()
    return out.to(query.dtype), scores.logsumexp(-1).float()


def _backward(states: Iterable[Tensor], lse: Tensor, causal: bool, scale: float) -> Any:
    grad, query, key, value, out = states
    group = query.shape[-3] // key.shape[-3]
    keys, values = (t.repeat_interleave(group, -3).double() for t in (key, value))
    weights = (_scores(query, keys, causal, scale) - lse.double().unsqueeze(-1)).exp()
    delta = (grad.double() * out.double()).sum(-1, keepdim=True)
    of_scores = weights * (grad.double() @ values.transpose(-1, -2) - delta) * scale
    of_key = of_scores.transpose(-1, -2) @ query.double()
    of_value = weights.transpose(-1, -2) @ grad.double()
    folded = (t.unflatten(-3, (-1, group)).sum(-3) for t in (of_key, of_value))
    return tuple(t.to(query.dtype) for t in (of_scores @ keys, *folded))


def _parts(starts: Tensor, longest: int, *states: Tensor) -> Iterator[list[Tensor]]:
    """`[tokens, heads, size]` as `[heads, length, size]` of each example."""
    assert starts.dtype == torch.int32, "the kernels read 32 bits"
    lengths = starts.diff().tolist()
    assert max(lengths) == longest
    for state in states:
        assert state.stride(-1) == 1, "the kernels read whole rows"
    for example in zip(*(t.split(lengths) for t in states), strict=True):
        yield [t.transpose(0, 1) for t in example]


def _flash_attention_forward(  # type: ignore[no-untyped-def]
    query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask,
    *, scale=None, **_,
):  # fmt: skip
    assert not dropout_p
    queries, keys = _parts(cum_seq_q, max_q, query), _parts(cum_seq_k, max_k, key, value)
    parts = [
        _forward((*own, *seen), is_causal, scale) for own, seen in zip(queries, keys, strict=True)
    ]
    out = torch.cat([part.transpose(0, 1) for part, _ in parts]).contiguous()
    lse = torch.cat([part for _, part in parts], -1)
    return out, lse, torch.empty(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def _flash_attention_backward(  # type: ignore[no-untyped-def]
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p,
    is_causal, rng_state, unused, *, scale=None, **_,
):  # fmt: skip
    assert torch.are_deterministic_algorithms_enabled()
    assert logsumexp.is_contiguous()
    queries = _parts(cum_seq_q, max_q, grad_out, query, out)
    keys = _parts(cum_seq_k, max_k, key, value)
    lses = logsumexp.split(cum_seq_q.diff().tolist(), -1)
    parts = [
        _backward((grad, own, *seen, result), lse, is_causal, scale)
        for (grad, own, result), seen, lse in zip(queries, keys, lses, strict=True)
    ]
    return tuple(
        torch.cat([t.transpose(0, 1) for t in grads]).contiguous()
        for grads in zip(*parts, strict=True)
    )


def _scaled_dot_product_flash_attention(  # type: ignore[no-untyped-def]
    query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None
):
    out, lse = _forward((query, key, value), is_causal, scale)
    random = torch.empty(2, dtype=torch.uint64), torch.empty(0)
    ends = torch.empty(0), torch.empty(0), query.shape[2], key.shape[2]
    return _laid_out(out), lse, *ends, *random, torch.empty(0)


def _scaled_dot_product_flash_attention_backward(  # type: ignore[no-untyped-def]
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p,
    is_causal, philox_seed, philox_offset, *, scale=None,
):  # fmt: skip
    assert (max_q, max_k) == (query.shape[2], key.shape[2])
    assert torch.are_deterministic_algorithms_enabled()
    assert logsumexp.is_contiguous()
    grads = _backward((grad_out, query, key, value, out), logsumexp, is_causal, scale)
    return tuple(_laid_out(t) for t in grads)


def _laid_out(states: Tensor) -> Tensor:
    """`[batch, heads, tokens, size]` that lie as `[batch, tokens, heads, size]`."""
    return states.transpose(1, 2).contiguous().transpose(1, 2)


def _efficient_attention_forward(  # type: ignore[no-untyped-def]
    query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
    custom_mask_type, compute_log_sumexp=False, *, scale=None, **_,
):  # fmt: skip
    assert query.shape[2] == key.shape[2], "it knows no groups of heads"
    assert compute_log_sumexp
    if cu_seqlens_q is None:
        turned = [t.transpose(1, 2) for t in (query, key, value)]
        out, lse = _forward(turned, custom_mask_type == 1, scale)
        rows = lse.new_full((*lse.shape[:2], -(-query.shape[1] // 32) * 32), math.inf)
        rows[:, :, : query.shape[1]] = lse
        out = out.transpose(1, 2)
    else:
        outs = []
        rows = torch.full(
            (len(cu_seqlens_q) - 1, query.shape[2], -(-max_seqlen_q // 32) * 32), math.inf
        )
        states = _parts(cu_seqlens_q, max_seqlen_q, query[0], key[0], value[0])
        for example, part in enumerate(states):
            own, lse = _forward(part, custom_mask_type == 1, scale)
            rows[example, :, : lse.shape[1]] = lse
            outs.append(own.transpose(0, 1))
        out = torch.cat(outs)[None]
    random = torch.empty((), dtype=torch.int64), torch.empty((), dtype=torch.int64)
    return out.contiguous(), rows, *random, query.shape[1], key.shape[1]


def _efficient_attention_backward(  # type: ignore[no-untyped-def]
    grad_out_, query, key, value, bias, out, cu_seqlens_q, cu_seqlens_k, max_seqlen_q,
    max_seqlen_k, logsumexp, dropout_p, philox_seed, philox_offset, custom_mask_type,
    bias_requires_grad, *, scale=None, num_splits_key=None, **_,
):  # fmt: skip
    assert num_splits_key == 1, "more would add up in any order"
    assert out.is_contiguous(), "in 16 bits it is read without strides"
    assert logsumexp.shape[-1] == -(-max_seqlen_q // 32) * 32
    states, causal = (grad_out_, query, key, value, out), custom_mask_type == 1
    if cu_seqlens_q is None:
        turned = tuple(t.transpose(1, 2) for t in states)
        grads = _backward(turned, logsumexp[:, :, : query.shape[1]], causal, scale)
        return *(t.transpose(1, 2).contiguous() for t in grads), torch.empty(0)
    parts = [
        _backward(part, logsumexp[example, :, : part[0].shape[1]], causal, scale)
        for example, part in enumerate(_parts(cu_seqlens_q, max_seqlen_q, *(t[0] for t in states)))
    ]
    grads = [
        torch.cat([t.transpose(0, 1) for t in grads])[None] for grads in zip(*parts, strict=True)
    ]
    return *grads, torch.empty(0)
