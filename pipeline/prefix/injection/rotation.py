"""Rotary embeddings that change with the length: what a prefix and its inputs must not mix."""

import warnings

import torch

from pipeline.prefix.errors import PrefixError


def refuse_mixed_rotation(mask: torch.Tensor, p: int, past: int, switch: int) -> None:
    """Raise PrefixError where keys of one call would be rotated by different factors."""
    lengths, cached = mask.sum(-1) + p, mask[:, :past].sum(-1) + p
    longest, shortest = int(lengths.max()), int(lengths.min())
    if longest <= switch:
        return
    if shortest <= switch or (past and int(cached.min()) <= switch):
        raise PrefixError(
            f"the model changes its rotary embedding beyond {switch} positions, for all rows and "
            f"for what is cached alike, but prefix and inputs take {shortest} to {longest} here; "
            "keep them and what is generated within that, or give longer inputs a call of their own"
        )
    warnings.warn(
        f"prefix and inputs take {longest} positions, and the model changes its rotary embedding "
        f"beyond {switch}: a prefix that was made from a shorter text is rotated otherwise",
        stacklevel=2,
    )
