"""Whether rows that were computed by groups can be decoded from one cache.

Their caches are put together with nothing in the place of padding. A step after that is what each
row would do alone where a model is told positions and masks what it is to mask; not where it counts
places in the cache. It is tried on a small model of the architecture, over more steps than a short
convolution is wide; one that cannot be tried is taken not to.
"""

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.cached import prefix_of
from pipeline.prefix.architecture.choosing import chooses_by_place
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.miniature import miniature_of
from pipeline.prefix.architecture.parts import evaluating
from pipeline.prefix.architecture.shapes import CacheShapes, cache_argument_of, cache_shapes
from pipeline.prefix.caches import empty_cache
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.exactness import Injected

_TEXT_LENGTH, _LONG, _SHORT, _STEPS = 2, 9, 3, 5
_TOLERANCE = 1e-4

_tried: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], bool]] = WeakKeyDictionary()


@torch.compiler.disable  # a trial, within a compiled call too
def goes_on_exactly(
    model: PreTrainedModel,
    shapes: CacheShapes,
    kinds: tuple[str, ...],
    in_groups: Callable[[PreTrainedModel, CacheShapes], Injected],
) -> bool:
    """Whether decoding after rows that were computed by groups gives each what it gives it alone.

    `shapes` are those of what the model caches, `kinds` what the prefix is made of; `in_groups`
    says how one is brought into a model of some shapes.
    """
    answers = _tried.setdefault(model, {})
    if kinds not in answers:
        by_place = bool(shapes.index) and chooses_by_place(model)
        answers[kinds] = not by_place and _agrees(model, kinds, in_groups)
    return answers[kinds]


@torch.no_grad()
def _agrees(
    model: PreTrainedModel,
    kinds: tuple[str, ...],
    in_groups: Callable[[PreTrainedModel, CacheShapes], Injected],
) -> bool:
    try:
        small = miniature_of(model)
        shapes = cache_shapes(small)
        ids = _tokens(small)
        mask = torch.ones_like(ids)
        mask[1, : _LONG - _SHORT] = 0
        cache = empty_cache(small.config)
        with evaluating(small):
            text = ids[:1, -_TEXT_LENGTH:]
            small(input_ids=text, use_cache=True, **{cache_argument_of(small): cache})
            kv = prefix_of(cache, _TEXT_LENGTH).of_kinds(kinds)
            with in_groups(small, shapes)(kv):
                together = _steps(small, ids, mask)[1:]
                alone = _steps(small, ids[1:, _LONG - _SHORT :], mask[1:, _LONG - _SHORT :])
    except (PrefixError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    return bool((together - alone).abs().max() / alone.abs().max() < _TOLERANCE)


def _steps(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits `[rows, steps, vocabulary]` of tokens given one at a time after the first `_LONG`."""
    first = ids.shape[1] - _STEPS
    told = "position_ids" in inspect.signature(model.forward).parameters
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    found: list[torch.Tensor] = []
    cache: dict[str, Any] = {}
    for start, end in ((0, first), *((at, at + 1) for at in range(first, ids.shape[1]))):
        given: dict[str, Any] = {"position_ids": places[:, start:end]} if told else {}
        given |= {"attention_mask": mask[:, :end], "use_cache": True, **cache}
        output = model(input_ids=ids[:, start:end], **given)
        name = cache_argument_of(model)
        cache = {name: output[name]}
        found.append(output.logits[:, -1:])
    return torch.cat(found[1:], dim=1)


def _tokens(model: PreTrainedModel) -> torch.Tensor:
    """A row and a short one behind padding, and what follows both: `[2, _LONG + _STEPS]`."""
    half = int(model.config.get_text_config().vocab_size) // 2
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(half // 2, half, (2, _LONG + _STEPS), generator=draw)
    return drawn.to(input_device(model))
