"""Shared-prefix attention of packed (varlen) examples through torch's FlexAttention.

On a GPU one fused kernel, compiled at first use, in which a block mask says which keys a position
sees. The prefix is the first keys of all, once for the batch. Uncompiled (as on a CPU) it computes
the same, slowly.
"""

from functools import cache, lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor


def why_not_flex(kind: StateKind) -> str | None:
    """Why FlexAttention does not serve; None where it does."""
    if kind.device != "cuda":
        return f"FlexAttention is slow on {kind.device}"
    if len(kind.dtypes) > 1 or len(kind.head_dims) > 1:
        return "FlexAttention takes one dtype and one head size"
    return None


def attention_by_flex(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention in one call of FlexAttention."""
    query, key, value, p = call.query, call.key, call.value, 0
    if call.prefix_key is not None and call.prefix_value is not None:
        p = call.prefix_key.shape[1]
        key = torch.cat([call.prefix_key.to(key.dtype), key], 1)
        value = torch.cat([call.prefix_value.to(value.dtype), value], 1)
    mask = _visible_keys(tuple(call.lengths), p, query.device)
    states = query[None], key[None], value[None]
    out: Tensor = _attention(query.device.type)(
        *states, block_mask=mask, scale=call.scaling, enable_gqa=True
    )
    return out.squeeze(0)


# Every layer of a batch asks for the same mask; one of inference mode could not be trained with.
@lru_cache(maxsize=2)
@torch.inference_mode(False)
def _visible_keys(lengths: tuple[int, ...], p: int, device: torch.device) -> Any:
    tokens = sum(lengths)
    numbers = torch.arange(len(lengths), device=device)
    example = numbers.repeat_interleave(torch.tensor(lengths, device=device), output_size=tokens)

    def sees(_batch: Tensor, _head: Tensor, position: Tensor, key: Tensor) -> Tensor:
        other = (key - p).clamp(min=0)
        own = (example[position] == example[other]) & (other <= position)
        return (key < p) | own

    return create_block_mask(sees, None, None, tokens, p + tokens, device=str(device))


@cache
def _attention(device: str) -> Any:
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
