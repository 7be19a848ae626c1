"""The fast way: examples packed one after another in a single row, without padding (varlen).

Linear layers see one matrix of real tokens; attention goes through transformers' own extension
point (`AttentionInterface`) to `shared_prefix_attention`. In rows longer than a window of the
model, its masks say what each layer hides (`pipeline.prefix.packed.masks`). What
`pipeline.prefix.packed.gate` turns away, because its attention computes something else, or hides
from that interface, is served by `PrefixModel.forward` in padded batches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.prefix.architecture.devices import index_of_states
from pipeline.prefix.architecture.reach import reach_of, window_of
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed import masks
from pipeline.prefix.packed.backends import shared_prefix_attention
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.call import PackedAttentionCall, Terms
from pipeline.prefix.packed.kernel.few_tokens.layers import kernel_layers
from pipeline.prefix.packed.masks import NotPackableError
from pipeline.prefix.packed.packing import Packing
from pipeline.prefix.packed.sight import Sight

NAME = "shared_prefix"
"""What transformers knows this attention by where nothing is hidden: no mask is made."""
NAMES = (NAME, masks.NAME)
# What an attention may ask for that no backend serves.
_BEYOND = ("position_bias", "head_mask")


def packed_logits(
    frozen_model: PreTrainedModel,
    input_ids: torch.Tensor,
    lengths: list[int],
    prefix: KVPrefix | None,
    keep: torch.Tensor,
    cache: PackedCache | None = None,
    hidden: torch.Tensor | None = None,
    prefix_always_visible: bool = False,
) -> torch.Tensor:
    """The frozen model's logits at some positions of packed examples.

    Args:
        input_ids: `[tokens]`, examples one after another.
        lengths: tokens of each example.
        prefix: what stands before every example; None for nothing.
        keep: indices `[n]` into `input_ids` of the positions whose logits are wanted.
        cache: filled with the examples' first keys and values, to decode from.
        hidden: boolean `[layers, p]`, virtual tokens that no query attends to.
        prefix_always_visible: whether windows and chunks show the prefix from any distance.

    Returns:
        `[n, vocabulary]`, those of the same example alone after the prefix.

    Raises:
        NotPackableError: where an attention computes something else, or examples are too long;
            `pipeline.prefix.packed.gate` says so before.
    """
    packing = Packing(
        lengths, prefix, cache, hidden=hidden, prefix_always_visible=prefix_always_visible
    )
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
    prefix_always_visible: bool = False,
) -> torch.Tensor:
    """Logits `[rows, vocabulary]` after one more token `[rows]` of each of the cache's rows."""
    packing = Packing(
        [1] * len(tokens),
        prefix,
        cache,
        decoding=True,
        prefix_always_visible=prefix_always_visible,
    )
    return next_logits_of_row(frozen_model, tokens, packing)


def next_logits_of_row(
    frozen_model: PreTrainedModel, tokens: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """`packed_step` of rows that follow one prefix, or each group of them its own."""
    positions = [
        part.cache.counts[row] + (0 if part.prefix is None else len(part.prefix))
        for part in packing.parts
        if part.cache is not None
        for row in part.cache.rows
    ]
    keep = torch.arange(len(tokens), device=tokens.device)
    with kernel_layers(frozen_model):
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
    window = window_of(frozen_model.config)
    is_hiding = window is not None and packing.longest > window
    with packed_attention_on(frozen_model, masks.NAME if is_hiding else NAME):
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
def packed_attention_on(model: PreTrainedModel, name: str = NAME) -> Iterator[None]:
    """Route the model's attention through `shared_prefix_attention`, and back again.

    By which of `NAMES` decides whether the model's masks are asked for. Within it, asking again
    costs nothing: a switch goes over all of the model's modules, which at every token is some
    milliseconds.
    """
    with turn_of(model):
        before = model.config._attn_implementation
        if before == name:
            yield
            return
        model.set_attn_implementation(name)
        try:
            yield
        finally:
            model.set_attn_implementation(before)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Sight | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix_packing: Packing | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: `[1, heads, tokens, size]` states, heads last out."""
    shown = attention_mask if isinstance(attention_mask, Sight) else None
    asked = [name for name in _BEYOND if kwargs.get(name) is not None]
    if dropout:
        asked.append("dropout of attention weights")
    window = kwargs.get("sliding_window")
    longest = 0 if prefix_packing is None else prefix_packing.longest
    # Some of transformers' attentions would go by it, others by the mask.
    if shown is None and window is not None and longest > window:
        asked.append(f"a window of {window} tokens that its mask does not show")
    if prefix_packing is None or asked:
        raise NotPackableError(", ".join(asked) or "the model does not pass keywords on")
    query, key, value = query.squeeze(0), key.squeeze(0), value.squeeze(0)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    terms = Terms(shown, softcap, s_aux)
    if prefix_packing.groups:
        out = _attend_groups(module.layer_idx, prefix_packing, query, key, value, scaling, terms)
    else:
        out = _attend(module.layer_idx, prefix_packing, query, key, value, scaling, terms)
    return out.transpose(0, 1).unsqueeze(0), None


def _attend(
    layer: int,
    packing: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    terms: Terms,
) -> torch.Tensor:
    """Attention `[heads, tokens, size]` of examples after one prefix."""
    cache, pair = packing.cache, packing.pair(layer)
    if terms.sight is not None:
        terms = replace(terms, sight=packing.sight(layer, terms.sight))
    if cache is not None and packing.decoding:
        return cache.attend(layer, query, key, value, pair, scaling, terms)
    if cache is not None:
        cache.prefill(layer, key, value, packing.lengths)
    # Layers of a model may lie on several devices, and the prefix is trained on one.
    prefix_key, prefix_value = (t.to(key.device) for t in pair) if pair else (None, None)
    if prefix_key is not None and prefix_key.shape[::2] != key.shape[::2]:
        # Multi-head latent attention: what is cached is expanded before it is attended to.
        raise NotPackableError("its cache holds other states than its attention sees")
    states = query, key, value, prefix_key, prefix_value
    return shared_prefix_attention(PackedAttentionCall(*states, packing.lengths, scaling, terms))


def _attend_groups(
    layer: int,
    packing: Packing,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    terms: Terms,
) -> torch.Tensor:
    """The same of a row of several prefixes: each is attended to by its own examples alone."""
    tokens = [sum(group.lengths) for group in packing.groups]
    split = zip(*(states.split(tokens, dim=1) for states in (query, key, value)), strict=True)
    outs = [
        _attend(layer, group, own_query, own_key, own_value, scaling, terms)
        for group, (own_query, own_key, own_value) in zip(packing.groups, split, strict=True)
    ]
    return torch.cat(outs, dim=1)


for _name in NAMES:
    AttentionInterface.register(_name, attend)
