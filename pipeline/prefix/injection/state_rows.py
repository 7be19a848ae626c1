"""Rows of a batch that layers which recur would read otherwise than each row alone."""

import torch
from transformers import PreTrainedModel

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.cache import PrefixCache


def refuse_what_states_do_not_bear(
    model: PreTrainedModel, cache: PrefixCache, mask: torch.Tensor, past: int
) -> None:
    """Raise PrefixError where recurrent layers would compute something else, or no gradient.

    Padding behind a row comes too late to harm it, but leaves a state that has passed through it.

    Args:
        model: has layers that recur.
        cache: that of the forward pass that begins.
        mask: `[batch, tokens]` of the input's tokens, the `past` first ones cached.
        past: tokens that are in the cache.
    """
    name, tokens = type(model).__name__, mask.shape[1] - past
    if cache.trains_states and tokens == 1 and torch.is_grad_enabled():
        raise PrefixError(
            f"{name}: recurrent layers write a single token's state over the one before, where no "
            "gradient can follow; give rows of at least two tokens, or call it within "
            "torch.no_grad()"
        )
    if bool(mask.all()):
        return
    before = mask[:, :past].bool()
    if bool((before.long().cumsum(-1).bool() & ~before).any()):
        raise PrefixError(
            f"{name}: a row that was padded on the right cannot go on, since its state has passed "
            "through the padding; generate from rows of one length"
        )
    if has_gaps(mask):
        raise PrefixError(
            f"{name}: padding stands between the tokens of a row, whose state it changes; give a "
            "cache rows of one length from call to call"
        )


def has_gaps(mask: torch.Tensor) -> bool:
    """Whether padding stands between the tokens of some row of a mask `[batch, tokens]`."""
    seen = mask.bool()
    gap = seen.long().cumsum(-1).bool() & ~seen
    return bool((gap.long().cumsum(-1).bool() & seen).any())


def why_states_bear_no_padding_before(
    model: PreTrainedModel, cache: PrefixCache, ordered: bool
) -> str | None:
    """Why padding before a row would change what layers that recur compute of it; None if not.

    Padding is masked out of their inputs, not out of their time: a state decays over it, but for
    one that is still that of nothing. `ordered` is whether padding before a row is moved before the
    prefix (`Layout.order`).
    """
    # Recurrent layers count a mask from its end, where an ordered one has the prefix.
    between = "it and the prefix's state, which it changes"
    within = "the prefix's keys and their row, where layers that recur do not see it"
    if not (cache.starts_from_states or ordered):
        return None
    return (
        f"{type(model).__name__}: padding before a row stands between "
        f"{between if cache.starts_from_states else within}"
    )
