"""Attention by its definition, all scores of an example at once, gradients left to autograd.

It serves windows, chunks, softcaps and sinks on any device and in any dtype, where no kernel does.
"""

import torch

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor, Terms
from pipeline.prefix.packed.sight import Horizon


def attention_by_scores(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention, `[num_heads, tokens, head_dim]` in the query's dtype."""
    prefix = call.key[:, :0], call.value[:, :0]
    if call.prefix_key is not None and call.prefix_value is not None:
        prefix = call.prefix_key, call.prefix_value
    sight = call.terms.sight
    horizon = None if sight is None else sight.of_row(call.lengths)
    outs, first = [], 0
    for query, key, value in zip(
        *(t.split(call.lengths, 1) for t in (call.query, call.key, call.value)), strict=True
    ):
        length = query.shape[1]
        seen = _seen(prefix[0].shape[1], length, horizon, first, query.device)
        keys, values = (
            torch.cat([far.to(near.dtype), near], 1)[None]
            for far, near in zip(prefix, (key, value), strict=True)
        )
        outs.append(attend_where(query[None], keys, values, seen, call.scaling, call.terms)[0])
        first += length
    return torch.cat(outs, 1)


def attend_where(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float, terms: Terms
) -> Tensor:
    """Attention to the keys that are seen.

    Args:
        query: `[batch, num_heads, queries, head_dim]`.
        key: `[batch, num_kv_heads, keys, head_dim]`, `value` likewise.
        seen: boolean, true for keys to attend to, broadcast to
            `[batch, num_kv_heads, group, queries, keys]`.
        scaling: what scores are multiplied by before softcap and softmax.
        terms: softcap and sinks; its sight is in `seen`.

    Returns:
        The query's shape and dtype; computed in float32 at least.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    grouped = query.unflatten(1, (key.shape[1], -1)).to(dtype)
    keys, values = (t.unsqueeze(2).to(dtype) for t in (key, value))
    scores = grouped @ keys.transpose(-1, -2) * scaling
    if terms.softcap is not None:
        scores = terms.softcap * (scores / terms.softcap).tanh()
    scores = scores.masked_fill(~seen, -torch.inf)
    if terms.sinks is not None:
        sinks = terms.sinks.to(scores).view(1, key.shape[1], -1, 1, 1)
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], -1)
    weights = scores.softmax(-1)[..., : values.shape[-2]]
    return (weights @ values).flatten(1, 2).to(query.dtype)


def _seen(p: int, length: int, horizon: Horizon | None, first: int, device: torch.device) -> Tensor:
    """Which keys each token of an example sees, boolean `[length, p + length]`."""
    token = torch.arange(length, device=device)[:, None]
    far, near = torch.arange(p, device=device), torch.arange(length, device=device)
    own, prefix = (
        (0, 0)
        if horizon is None
        else (
            torch.tensor(side[first : first + length], device=device)[:, None]
            for side in (horizon.own, horizon.prefix)
        )
    )
    to_prefix = (far >= prefix).expand(length, p)
    return torch.cat([to_prefix, (near <= token) & (near >= own)], 1)
