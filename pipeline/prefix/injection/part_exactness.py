"""Whether a prefix does in an encoder, or a decoder beside one, what a text before the input does.

The counterpart of `pipeline.prefix.injection.exactness`, found out by trying as well. What it has
to equal is a text that was read beforehand: the model reads text and input together, while every
attention is given, for the text's positions, the keys and values of the text alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import Place, evaluating, on_tokens_alone, run
from pipeline.prefix.architecture.routing import AttentionCall, routed
from pipeline.prefix.injection.exactness import agree
from pipeline.prefix.injection.windows import reach
from pipeline.prefix.kv import KVPrefix

_TEXT_LENGTH, _INPUT_LENGTH = 2, 4

_tried: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()


@torch.compiler.disable  # a trial, within a compiled call too
def is_exact_part(
    model: PreTrainedModel,
    places: list[Place],
    injected: Callable[[KVPrefix], AbstractContextManager[Any]],
) -> bool:
    """Whether a prefix in these places, all of one part, is exactly a text read beforehand."""
    answers = _tried.setdefault(model, {})
    part = places[0].part
    if part not in answers:
        half = torch.finfo(model.dtype).eps > 1e-4
        answers[part] = agree(*_compared(model, places, injected), half)
    return answers[part]


@torch.no_grad()
def _compared(
    model: PreTrainedModel,
    places: list[Place],
    injected: Callable[[KVPrefix], AbstractContextManager[Any]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The part's outputs after a prefix, after the same text, and after nothing."""
    part, p = places[0].part, _TEXT_LENGTH
    # What a window hides has to be among what is compared.
    ids = _tokens(model, p + _INPUT_LENGTH + reach(model))
    other = ids[:, :p].flip(1)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(call: AttentionCall, _: int) -> None:
        kept.append((call.key, call.value))

    def replace(call: AttentionCall, index: int) -> None:
        key, value = kept[index]
        call.key = torch.cat([key, call.key[:, :, p:]], dim=2)
        call.value = torch.cat([value, call.value[:, :, p:]], dim=2)

    with evaluating(model), on_tokens_alone(model):
        with routed(model, _numbered(places, keep)):
            _output(model, part, ids[:, :p], other)
        with routed(model, _numbered(places, replace)):
            after_text = _output(model, part, ids, other)[:, p:]
        after_nothing = _output(model, part, ids[:, p:], other)
        kv = KVPrefix(
            tuple(key[0].float() for key, _ in kept),
            tuple(value[0].float() for _, value in kept),
            parts=(part,) * len(kept),
        )
        with injected(kv):
            after_prefix = _output(model, part, ids[:, p:], other)
    return after_prefix, after_text, after_nothing


def _numbered(
    places: list[Place], act: Callable[[AttentionCall, int], None]
) -> Callable[[AttentionCall], None]:
    """A handler of one pass that acts on the calls of places, told which of them it is."""
    order = {(id(place.module), place.call): index for index, place in enumerate(places)}
    calls: dict[int, int] = {}

    def handle(call: AttentionCall) -> None:
        at = id(call.module), calls.get(id(call.module), 0)
        calls[at[0]] = at[1] + 1
        if at in order:
            act(call, order[at])

    return handle


def _output(
    model: PreTrainedModel, part: str, ids: torch.Tensor, other: torch.Tensor
) -> torch.Tensor:
    """What the part makes of ids, the other side of an encoder-decoder being given `other`."""
    output = run(model, other, ids) if part == "decoder" else run(model, ids, other)
    both = model.config.is_encoder_decoder and part == "encoder"
    hidden: torch.Tensor = output.encoder_last_hidden_state if both else output[0]
    return hidden.float()


def _tokens(model: PreTrainedModel, count: int) -> torch.Tensor:
    """Ids of the upper half of the vocabulary, away from special tokens: `[1, count]`."""
    size = int(model.config.get_text_config().vocab_size)
    return (size // 2 + torch.arange(count) % (size - size // 2))[None]
