"""The mask of an attention call that hides some virtual tokens."""

import torch

from pipeline.prefix.architecture.routing import AttentionCall


def hiding(call: AttentionCall, hidden: torch.Tensor, is_eager: bool) -> torch.Tensor:
    """A call's mask, its prefix of p tokens included, that hides some of them: boolean `[p]`.

    `is_eager`: a mask is added to the scores, where otherwise it may be true for keys to see.
    """
    hidden = hidden.to(call.key.device)
    mask, keys = call.mask, call.key.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, call.query.shape[2], keys, dtype=torch.bool, device=hidden.device)
        if is_eager:
            mask = torch.zeros_like(mask, dtype=call.query.dtype)
    chosen = torch.cat([hidden, hidden.new_zeros(mask.shape[-1] - len(hidden))])
    return mask.masked_fill(
        chosen, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    )
