"""On which side rows can be padded without a change to what each of them is alone.

Attention masks padding wherever it stands. A state does not: it goes on from token to token, and
padding between a prefix and a row's first token decays it, whatever the mask says. Padding after
the last token comes too late to change what is computed of those before it, but leaves a state that
nothing can be decoded from. What a model does with either is tried, on a small one of its
architecture.
"""

import inspect
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from pipeline.prefix.architecture.miniature import VOCABULARY, miniature_of
from pipeline.prefix.architecture.one_pass import in_one_pass
from pipeline.prefix.errors import PrefixError

Side = Literal["left", "right"]

_SHORT, _LONG = 3, 8
# Of the largest logit: rounding is a hundredth of it, padding in a state much more.
_TOLERANCE = 1e-4
# What models raise for a call that they were not made for.
_NO_ANSWER = (PrefixError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

_known: dict[Hashable, Side | None] = {}


def padding_side(
    model: PreTrainedModel, prefixed: Callable[[PreTrainedModel], nn.Module], key: Hashable
) -> Side | None:
    """The side on which rows of unlike length are padded for one pass: "left" before "right".

    None for neither.

    Padded on the left, rows can also be decoded together; on the right they give their logits
    alone. A model that cannot be tried has neither.

    Args:
        model: whose architecture is asked about.
        prefixed: gives a small model of it the prefix that `model` has, or none.
        key: tells that prefix from others of the same architecture.
    """
    known = (type(model), model.config.to_json_string(use_diff=False), key)
    if known not in _known:
        _known[known] = _tried(model, prefixed)
    return _known[known]


@torch.no_grad()
def _tried(model: PreTrainedModel, prefixed: Callable[[PreTrainedModel], nn.Module]) -> Side | None:
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(in_one_pass())
        torch.manual_seed(0)
        try:
            small = prefixed(miniature_of(model)).eval()
        except _NO_ANSWER:
            return None
        if _agrees(small, "left") and _decodes(small):
            return "left"
        return "right" if _agrees(small, "right") else None


def _agrees(model: Any, side: Side) -> bool:
    """Whether a short row beside a long one has the logits that it has alone."""
    ids, mask = _rows(side)
    try:
        alone = _logits(model, ids[1:, :_SHORT] if side == "right" else ids[1:, -_SHORT:])
        beside = _logits(model, ids, mask)[1:]
    except _NO_ANSWER:
        return False
    return _same(beside[:, :_SHORT] if side == "right" else beside[:, -_SHORT:], alone)


def _decodes(model: Any) -> bool:
    """Whether the next token after a short row, padded on the left, has the logits of it alone."""
    ids, mask = _rows("left")
    step = torch.full((2, 1), VOCABULARY // 2)
    try:
        together = _next(model, ids, mask, step)[1:]
        alone = _next(model, ids[1:, -_SHORT:], mask[1:, -_SHORT:], step[1:])
    except _NO_ANSWER:
        return False
    return _same(together, alone)


def _rows(side: Side) -> tuple[torch.Tensor, torch.Tensor]:
    """A long row and a short one, and their mask: `[2, tokens]`."""
    ids = torch.arange(2 * _LONG).view(2, _LONG) * 7 % (VOCABULARY - 8) + 4
    missing = _LONG - _SHORT
    ends = (missing, 0) if side == "left" else (0, missing)
    ids = torch.stack([ids[0], pad(ids[1, :_SHORT], ends)])
    mask = torch.stack([torch.ones(_LONG), pad(torch.ones(_SHORT), ends)]).long()
    return ids, mask


def _next(model: Any, ids: torch.Tensor, mask: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    cached = {model.cache_name: model.new_cache(), "use_cache": True}
    _logits(model, ids, mask, **cached)
    mask = torch.cat([mask, torch.ones_like(step)], dim=1)
    return _logits(model, step, mask, **cached)


def _logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, **extra: Any
) -> torch.Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    if "position_ids" in inspect.signature(model.forward).parameters:
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    extra.setdefault("use_cache", False)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, **extra).logits
    return logits


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() / wanted.abs().max() < _TOLERANCE)
