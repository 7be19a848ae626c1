"""Shared-prefix attention of packed (varlen) examples through torch's FlexAttention.

On a GPU one fused kernel, compiled at first use, in which a block mask says which keys a position
sees. The prefix is the first keys of all, once for the batch. Uncompiled (as on a CPU) it computes
the same, slowly. A sink is a key of its own whose weight the log-sum-exp tells.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor
from pipeline.prefix.packed.sight import Sight


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
    terms = call.terms
    mask = _visible_keys(tuple(call.lengths), p, query.device, terms.sight)
    states = query[None], key[None], value[None]
    how: dict[str, Any] = {"block_mask": mask, "scale": call.scaling, "enable_gqa": True}
    if terms.softcap is not None:
        how["score_mod"] = _capped(terms.softcap)
    attention = _attention(query.device.type)
    if terms.sinks is None:
        out: Tensor = attention(*states, **how)
        return out.squeeze(0)
    out, aux = attention(*states, **how, return_aux=AuxRequest(lse=True))
    share = torch.sigmoid(aux.lse.squeeze(0) - terms.sinks[:, None].to(aux.lse))
    return (out.squeeze(0) * share.unsqueeze(-1)).to(query.dtype)


# Every layer of a batch asks for the same mask; one of inference mode could not be trained with.
@lru_cache(maxsize=2)
@torch.inference_mode(False)
def _visible_keys(
    lengths: tuple[int, ...], p: int, device: torch.device, sight: Sight | None
) -> Any:
    tokens = sum(lengths)
    numbers = torch.arange(len(lengths), device=device)
    example = numbers.repeat_interleave(torch.tensor(lengths, device=device), output_size=tokens)

    def sees(_batch: Tensor, _head: Tensor, position: Tensor, key: Tensor) -> Tensor:
        other = (key - p).clamp(min=0)
        own = (example[position] == example[other]) & (other <= position)
        return (key < p) | own

    if sight is None:
        return create_block_mask(sees, None, None, tokens, p + tokens, device=str(device))
    horizon = sight.of_row(lengths)
    begins = torch.tensor([0, *lengths], device=device).cumsum(0)[example]
    first_own = begins + torch.tensor(horizon.own, device=device) + p
    first_of_prefix = torch.tensor(horizon.prefix, device=device)

    def sees_from(batch: Tensor, head: Tensor, position: Tensor, key: Tensor) -> Tensor:
        first = torch.where(key < p, first_of_prefix[position], first_own[position])
        return sees(batch, head, position, key) & (key >= first)

    return create_block_mask(sees_from, None, None, tokens, p + tokens, device=str(device))


# One function a softcap, which is compiled once.
@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _attention(device: str) -> Any:
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
