"""Whether a prefix does in a causal model what the same text before the input does.

It is found out by trying, never taken from a name: two tokens before the input, and what is cached
of them as a prefix, have to give the same numbers. They do not where attention looks ahead
(PaliGemma over its prompt, embedding models made of decoders), where a model counts positions in a
way of its own, where it uses a recurrent state for single tokens alone, or where an image's place
among the tokens enters in a way that a prefix does not move. Inputs beside the tokens are tried
when they first come, as they come.

A prefix of keys and values alone, or of states alone, is no text where a model has both. It is
compared with what the model itself computes from a cache of transformers that holds the same.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.cached import prefix_of
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating, looks_ahead, takes
from pipeline.prefix.architecture.shapes import cache_argument_of, cache_shapes
from pipeline.prefix.caches import empty_cache, tell_positions
from pipeline.prefix.injection.layout import lay_out
from pipeline.prefix.kv import KVPrefix

Injected = Callable[[KVPrefix], AbstractContextManager[Any]]
"""A model with some prefix, as the injection to be tried brings it in."""

_TEXT_LENGTH, _INPUT_LENGTH = 2, 4
# What a call says of tokens, or of how to compute; anything else is an input of another kind.
_TOKENS = ("input_ids", "inputs_embeds", "attention_mask")
_CACHES = ("past_key_values", "cache_params")
_LEFT_OUT = ("labels", *_CACHES, "use_cache", "logits_to_keep", "cache_position")
_MEANINGLESS = (*_TOKENS, *_LEFT_OUT, "position_ids", "num_items_in_batch")

# Answers by frozen model, for the names of the inputs that were tried.
_tried: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


def other_inputs(given: dict[str, Any]) -> frozenset[str]:
    """The names of a call's inputs that are no tokens: images, sounds, and where they stand."""
    return frozenset(
        name
        for name, value in given.items()
        if name not in _MEANINGLESS and isinstance(value, torch.Tensor | list | tuple | dict)
    )


@torch.compiler.disable  # a trial, within a compiled call too
def is_exact(
    model: PreTrainedModel,
    injected: Injected,
    given: dict[str, Any] | None = None,
    way: str = "",
    kinds: tuple[str, ...] = (),
) -> bool:
    """Whether a prefix is exactly a text, for tokens alone or with a call's other inputs.

    A call's inputs are tried as they are, once for each set of them and each `way` of injecting;
    where the model itself refuses them with a text before, a prefix is nothing either. `kinds` are
    what the prefix is made of, all that the model has unless they are given.
    """
    if given is None:
        given = {"input_ids": _tokens(model)[:, _TEXT_LENGTH:]}
    others = other_inputs(given)
    # Types of tokens that are all zero say nothing of others.
    said = {name for name in others if torch.is_tensor(given[name]) and bool(given[name].any())}
    answers = _tried.setdefault(model, {})
    key = (others, frozenset(said), way, kinds)
    if key not in answers:
        # What a token sees ahead of it may change less than rounding, untrained: that is asked.
        ahead = not others and looks_ahead(model)
        compared = None if ahead else _compared(model, injected, given, kinds)
        half = torch.finfo(model.dtype).eps > 1e-4
        answers[key] = compared is not None and agree(*compared, half)
    return answers[key]


@torch.compiler.disable  # a trial, within a compiled call too
@torch.no_grad()
def writes_as_it_reads(model: PreTrainedModel) -> bool:
    """Whether the model's own generation begins with the logits of its forward pass.

    It does not where transformers counts positions for a generation otherwise than the model does.
    """
    ids = _tokens(model)
    how = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}
    with evaluating(model):
        read = _output(model(input_ids=ids, use_cache=False))[:, -1]
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            return_dict_in_generate=True,
            output_logits=True,
            **how,
        ).logits[0]
    scale = float(read.abs().max())
    return bool(torch.allclose(read, written.float(), rtol=0, atol=1e-3 * scale))


@torch.no_grad()
def _compared(
    model: PreTrainedModel, injected: Injected, given: dict[str, Any], kinds: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The outputs after a prefix, after the same text, and after nothing."""
    inputs = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    tokens = next(given[name] for name in _TOKENS if given.get(name) is not None)
    rows, length = tokens.shape[:2]
    mask = given.get("attention_mask")
    if mask is None:
        mask = torch.ones(rows, length, dtype=torch.long, device=tokens.device)
    text, whole = _with_text(model, inputs, mask)
    cache = empty_cache(model.config)
    with evaluating(model):
        # A mistake in the call itself shows here, in the model's own words.
        after_nothing = _output(model(**inputs, use_cache=False))
        try:
            model(**text, use_cache=True, **{cache_argument_of(model): cache})
            kv = prefix_of(cache, _TEXT_LENGTH)
            if kinds in ((), kv.kinds):
                after_text = _output(model(**whole, use_cache=False))
                after_text = after_text[:, _TEXT_LENGTH:] if after_text.ndim > 2 else after_text
            else:
                kv = kv.of_kinds(kinds)
                after_text = _going_on(model, kv, inputs, mask)
            with injected(kv):
                after_prefix = _output(model(**inputs, use_cache=False))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # models raise whatever they like for what they were not made for
            return None
    if after_nothing.ndim < 3:
        return after_prefix, after_text, after_nothing
    if not after_prefix.shape == after_text.shape == after_nothing.shape:
        # With tokens of its own beside the input's, none of which is known here.
        return None
    seen = mask.bool()
    if after_nothing.shape[:2] != seen.shape:
        return None
    return after_prefix[seen], after_text[seen], after_nothing[seen]


def _going_on(
    model: PreTrainedModel, kv: KVPrefix, inputs: dict[str, Any], mask: torch.Tensor
) -> torch.Tensor:
    """The output of the model from a cache of transformers that holds what the prefix does."""
    p = len(kv) if kv.keys else 0
    cache = kv.to(input_device(model)).to_cache(len(mask), model.config)
    for index, axes in cache_shapes(model).axes.items():
        tell_positions(cache.layers[index], axes, len(mask), p, mask.device)
    given = {**inputs, "attention_mask": torch.cat([mask.new_ones(len(mask), p), mask], dim=1)}
    if takes(model, "position_ids"):
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0) + p
    return _output(model(**given, use_cache=True, **{cache_argument_of(model): cache}))


def _with_text(
    model: PreTrainedModel, inputs: dict[str, Any], mask: torch.Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The text alone, and before each row of the inputs, after the padding that leads it."""
    (rows, length), p = mask.shape, _TEXT_LENGTH
    order = lay_out(mask, p, ordered=True).order
    assert order is not None
    ids = _tokens(model)[:, :p].expand(rows, -1)
    text: dict[str, Any] = {}
    whole = dict(inputs)
    if (positions := inputs.get("position_ids")) is not None:
        # Where the input's begin: transformers takes a gap for the beginning of another sequence.
        start = int(positions[..., mask.bool()].min())
        first = torch.arange(start, start + p, device=mask.device).expand(*positions.shape[:-1], -1)
        joined = torch.cat([first, positions + p], dim=-1)
        whole["position_ids"] = joined.gather(-1, order.expand_as(joined))
        text["position_ids"] = first[..., :1, :]
    for name, value in inputs.items():
        # Types of tokens, and whatever else there is one of for each.
        per_token = isinstance(value, torch.Tensor) and value.shape[:2] == (rows, length)
        if not per_token or name == "position_ids":
            continue
        if name == "input_ids":
            before = ids.to(value.dtype)
        elif name == "inputs_embeds":
            before = model.get_input_embeddings()(ids).to(value.dtype)
        elif name == "attention_mask":
            before = value.new_ones(rows, p)
        elif value.is_floating_point():
            continue
        else:
            before = value.new_zeros(rows, p, *value.shape[2:])
        joined = torch.cat([before, value], dim=1)
        at = order.reshape(*order.shape, *[1] * (joined.ndim - 2)).expand_as(joined)
        whole[name] = joined.gather(1, at)
        text[name] = before[:1]
    return text, whole


def padded_call(model: PreTrainedModel, first: int) -> dict[str, Any]:
    """Two rows of tokens, the first with padding before it, for `is_exact`.

    `first` is the position of a row's first token.
    """
    ids = _tokens(model)[:, _TEXT_LENGTH:].expand(2, -1)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if takes(model, "position_ids"):
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0) + first
    return given


def _tokens(model: PreTrainedModel) -> torch.Tensor:
    """Ids from the middle of the vocabulary, away from special tokens: `[1, text + input]`."""
    half = int(getattr(model.config.get_text_config(), "vocab_size", 0)) // 2
    last = half + _TEXT_LENGTH + _INPUT_LENGTH
    return torch.arange(half, last, device=input_device(model))[None]


def _output(output: Any) -> torch.Tensor:
    logits = getattr(output, "logits", None)
    return (output[0] if logits is None else logits).float()


def agree(prefix: torch.Tensor, text: torch.Tensor, nothing: torch.Tensor, half: bool) -> bool:
    """Whether what differs is rounding, beside what a prefix changes at all.

    A wrong way is off by about as much as the prefix changes. Half precision rounds much of that
    away where a prefix changes little: there only what is plainly wrong counts.
    """
    error, effect = float((prefix - text).norm()), float((text - nothing).norm())
    share = error / max(float(text.norm()), 1e-30)
    return not (share > (0.05 if half else 1e-5) and error > (0.5 if half else 0.01) * effect)
