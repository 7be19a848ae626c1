"""What of a prefix is hidden, and the mask of an attention call that hides some virtual tokens."""

from collections.abc import Collection

import torch

from pipeline.prefix.architecture.routing import AttentionCall
from pipeline.prefix.errors import PrefixError


def hidden_tokens(
    places: int,
    p: int,
    tokens: Collection[int] | None,
    at: Collection[int] | None,
    states: Collection[int] | None,
) -> torch.Tensor:
    """Which virtual tokens are hidden in which places, boolean `[places, p]`.

    All tokens without `tokens`, everywhere without `at`; none where states alone are named. Raises
    PrefixError for a token or place that the prefix has not.
    """
    hidden = torch.zeros(places, p, dtype=torch.bool)
    for name, given, most in (("token", tokens, p), ("place", at, places)):
        if absent := [index for index in given or () if not 0 <= index < most]:
            raise PrefixError(f"the prefix has no {name} {absent[0]}, only 0 to {most - 1}")
    if tokens is not None or at is not None or states is None:
        rows = torch.tensor(sorted(range(places) if at is None else at), dtype=torch.long)
        columns = torch.tensor(sorted(range(p) if tokens is None else tokens), dtype=torch.long)
        hidden[rows[:, None], columns] = True
    return hidden


def layers_left_out(
    recurring: frozenset[int], states: Collection[int] | None, is_all: bool
) -> frozenset[int]:
    """The layers that recur from nothing: those named, or every one where all is hidden.

    Raises PrefixError for a layer that the prefix has no state of.
    """
    if absent := [index for index in states or () if index not in recurring]:
        shown = ", ".join(map(str, sorted(recurring))) or "none"
        raise PrefixError(f"the prefix has no state of layer {absent[0]}; it has {shown}")
    return recurring if states is None and is_all else frozenset(states or ())


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
