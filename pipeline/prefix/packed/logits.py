"""The fast way: examples packed one after another in a single row, without padding (varlen).

Linear layers see one matrix of real tokens; attention goes through transformers' own extension
point (`AttentionInterface`) to `shared_prefix_attention`. What `pipeline.prefix.packed.gate` turns
away, because its attention does more than scale, mask and softmax, or hides from that interface,
is served by `PrefixModel.forward` in padded batches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.prefix.architecture.devices import index_of_states
from pipeline.prefix.architecture.reach import reach_of
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.backends import shared_prefix_attention
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.call import PackedAttentionCall

NAME = "shared_prefix"
"""What transformers knows this attention by."""
# What an attention may ask for beyond scaled, causal softmax attention.
_BEYOND = ("softcap", "s_aux", "position_bias", "head_mask")


@dataclass(frozen=True)
class Packing:
    """What the attention needs to know of a packed row; a keyword carries it through the model."""

    lengths: list[int]
    prefix: KVPrefix | None
    cache: PackedCache | None = None
    decoding: bool = False
    hidden: torch.Tensor | None = None
    groups: tuple["Packing", ...] = ()
    """Of a row whose examples follow different prefixes: one packing a prefix, in their order."""

    def pair(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The prefix's keys and values in a layer, without hidden tokens; None for none."""
        pair = None if self.prefix is None else self.prefix.layer(layer)
        if pair is None or self.hidden is None:
            return pair
        shown = ~self.hidden[layer].to(pair[0].device)
        return (pair[0][:, shown], pair[1][:, shown]) if bool(shown.any()) else None

    @property
    def longest(self) -> int:
        """Tokens of the longest example, those decoded before and the prefix included."""
        if self.groups:
            return max(group.longest for group in self.groups)
        before = [0] if self.cache is None or not self.decoding else self.cache.counts
        return max(self.lengths) + max(before) + (0 if self.prefix is None else len(self.prefix))

    @property
    def row(self) -> int:
        """Tokens of the row, the longest prefix included."""
        lengths = [0 if part.prefix is None else len(part.prefix) for part in self.parts]
        return max(lengths) + sum(self.lengths)

    @property
    def parts(self) -> tuple["Packing", ...]:
        """The packings of one prefix each."""
        return self.groups or (self,)


class NotPackableError(PrefixError):
    """An attention met on the way computes something that the fast way does not."""


def packed_logits(
    frozen_model: PreTrainedModel,
    input_ids: torch.Tensor,
    lengths: list[int],
    prefix: KVPrefix | None,
    keep: torch.Tensor,
    cache: PackedCache | None = None,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """The frozen model's logits at some positions of packed examples.

    Args:
        input_ids: `[tokens]`, examples one after another.
        lengths: tokens of each example.
        prefix: what stands before every example; None for nothing.
        keep: indices `[n]` into `input_ids` of the positions whose logits are wanted.
        cache: filled with the examples' first keys and values, to decode from.
        hidden: boolean `[layers, p]`, virtual tokens that no query attends to.

    Returns:
        `[n, vocabulary]`, those of the same example alone after the prefix.

    Raises:
        NotPackableError: where an attention does more than that, or hides part of an example this
            long; `pipeline.prefix.packed.gate` says so before.
    """
    packing = Packing(lengths, prefix, cache, hidden=hidden)
    return logits_of_row(frozen_model, input_ids, packing, keep)


def logits_of_row(
    frozen_model: PreTrainedModel, input_ids: torch.Tensor, packing: Packing, keep: torch.Tensor
) -> torch.Tensor:
    """`packed_logits` of examples that follow one prefix, or each group of them its own."""
    positions = [
        position + (0 if part.prefix is None else len(part.prefix))
        for part in packing.parts
        for length in part.lengths
        for position in range(length)
    ]
    return _packed(frozen_model, input_ids, positions, packing, keep)


def packed_step(
    frozen_model: PreTrainedModel,
    tokens: torch.Tensor,
    prefix: KVPrefix | None,
    cache: PackedCache,
) -> torch.Tensor:
    """Logits `[rows, vocabulary]` after one more token `[rows]` of each of the cache's rows."""
    start = 0 if prefix is None else len(prefix)
    positions = [start + cache.counts[row] for row in cache.rows]
    packing = Packing([1] * len(positions), prefix, cache, decoding=True)
    keep = torch.arange(len(tokens), device=tokens.device)
    return _packed(frozen_model, tokens, positions, packing, keep)


def _packed(
    frozen_model: PreTrainedModel,
    input_ids: torch.Tensor,
    positions: list[int],
    packing: Packing,
    keep: torch.Tensor,
) -> torch.Tensor:
    reach = reach_of(frozen_model.config)
    for limit, count in ((reach.tokens, packing.longest), (reach.row, packing.row)):
        if limit is not None and count > limit:
            name = type(frozen_model).__name__
            raise NotPackableError(f"{name} {reach.why}: {count} are too many for packed rows")
    with packed_attention_on(frozen_model):
        output = frozen_model(
            input_ids=input_ids[None],
            position_ids=torch.tensor([positions], device=input_ids.device),
            use_cache=False,
            logits_to_keep=index_of_states(frozen_model, keep),
            prefix_packing=packing,
        )
    # Not `[0]`, whose gradient would be a copy of the logits' among zeros.
    logits: torch.Tensor = output.logits.squeeze(0)
    return logits


@contextmanager
def packed_attention_on(model: PreTrainedModel) -> Iterator[None]:
    """Route the model's attention through `shared_prefix_attention`, and back again."""
    with turn_of(model):
        before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            model.set_attn_implementation(before)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix_packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: `[1, heads, tokens, size]` states, heads last out."""
    asked = [name for name in _BEYOND if kwargs.get(name) is not None]
    if dropout:
        asked.append("dropout of attention weights")
    window = kwargs.get("sliding_window")
    if window is not None and prefix_packing is not None and prefix_packing.longest > window:
        asked.append(f"a window of {window} tokens")
    if prefix_packing is None or asked:
        raise NotPackableError(", ".join(asked) or "the model does not pass keywords on")
    query, key, value = query.squeeze(0), key.squeeze(0), value.squeeze(0)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if prefix_packing.groups:
        out = _attend_groups(module.layer_idx, prefix_packing, query, key, value, scaling)
    else:
        out = _attend(module.layer_idx, prefix_packing, query, key, value, scaling)
    return out.transpose(0, 1).unsqueeze(0), None


def _attend(
    layer: int,
    packing: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Attention `[heads, tokens, size]` of examples after one prefix."""
    cache, pair = packing.cache, packing.pair(layer)
    if cache is not None and packing.decoding:
        return cache.attend(layer, query, key, value, pair, scaling)
    if cache is not None:
        cache.prefill(layer, key, value, packing.lengths)
    # Layers of a model may lie on several devices, and the prefix is trained on one.
    prefix_key, prefix_value = (t.to(key.device) for t in pair) if pair else (None, None)
    if prefix_key is not None and prefix_key.shape[::2] != key.shape[::2]:
        # Multi-head latent attention: what is cached is expanded before it is attended to.
        raise NotPackableError("its cache holds other states than its attention sees")
    return shared_prefix_attention(
        PackedAttentionCall(query, key, value, prefix_key, prefix_value, packing.lengths, scaling)
    )


def _attend_groups(
    layer: int,
    packing: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """The same of a row of several prefixes: each is attended to by its own examples alone."""
    tokens = [sum(group.lengths) for group in packing.groups]
    split = zip(*(states.split(tokens, dim=1) for states in (query, key, value)), strict=True)
    outs = [
        _attend(layer, group, own_query, own_key, own_value, scaling)
        for group, (own_query, own_key, own_value) in zip(packing.groups, split, strict=True)
    ]
    return torch.cat(outs, dim=1)


AttentionInterface.register(NAME, attend)
