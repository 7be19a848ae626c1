"""The parts of a model that can have a prefix, found by watching its attention at work.

Li and Liang (2021, Figure 2) give an encoder-decoder a prefix in the encoder and in the decoder;
the decoder attends within itself and to the encoder's output, which makes three parts.
"""

import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.routing import AttentionCall, reaches_attention, routed
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError, first_line
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PARTS
from pipeline.prefix.parameters.flat import Shapes


@dataclass(frozen=True)
class Place:
    """One attention module, as the place of a prefix.

    Attributes:
        part: one of `PARTS`.
        layer: its index among the layers of that part.
        module: the attention module.
        call: which of the module's calls in one pass it is; 0 but where layers share a module
            (ALBERT), which then is the place of a prefix for each of them.
        key_shape: `(num_kv_heads, head_dim)` of keys, `value_shape` of values.
    """

    part: str
    layer: int
    module: Any
    key_shape: tuple[int, int]
    value_shape: tuple[int, int]
    call: int = 0


def is_decoder_only(model: PreTrainedModel) -> bool:
    """Whether the model is causal throughout, so that a prefix comes in through its KV cache.

    A model that generates is. Any other (a classifier) is asked: in a causal one the first token
    does not see the last. Raises PrefixError for a model that reads no tokens.
    """
    if model.main_input_name != "input_ids":
        raise PrefixError(
            f"{type(model).__name__} reads {model.main_input_name}, not input_ids; a prefix stands "
            "before tokens"
        )
    if model.config.is_encoder_decoder:
        return False
    if model.can_generate():
        return True
    return not looks_ahead(model)


def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether a token's numbers depend on a later one's, without its head."""
    ids = torch.tensor([[5, 6, 7], [5, 6, 8]], device=input_device(model))
    with torch.no_grad(), evaluating(model), on_tokens_alone(model):
        first = model.base_model(input_ids=ids)[0][:, 0].float()
    return not torch.allclose(first[0], first[1], atol=1e-6)


def places_of(model: PreTrainedModel, parts: tuple[str, ...] = PARTS) -> list[Place]:
    """Every attention of some parts of an encoder-decoder or encoder that a prefix can reach.

    Found from one forward pass over a few tokens, ordered by part, then by layer. Attention that
    the model computes itself (block-local attention for example) is not among them. Raises
    PrefixError when there is none.
    """
    seen: list[AttentionCall] = []
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    within = {id(module) for module in encoder.modules()}
    with torch.no_grad(), evaluating(model), routed(model, seen.append), on_tokens_alone(model):
        run(model, torch.full((1, 3), 5), torch.full((1, 2), 5))
    found: dict[str, list[AttentionCall]] = {part: [] for part in PARTS}
    for call in seen:
        if id(call.module) in within:
            found["encoder"].append(call)
        else:
            found["cross" if call.key.shape[2] == 3 else "decoder"].append(call)
    places = [
        Place(
            part,
            layer,
            call.module,
            _shape(call.key),
            _shape(call.value),
            sum(before.module is call.module for before in found[part][:layer]),
        )
        for part in PARTS
        if part in parts
        for layer, call in enumerate(found[part])
    ]
    if not places:
        raise PrefixError(f"{type(model).__name__} has no attention that a prefix can reach")
    return places


def parts_of(model: PreTrainedModel, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The parts that get a prefix: those asked for, else every part that the model has.

    Raises PrefixError for a part that the model has not, or computes out of a prefix's reach.
    """
    name = type(model).__name__
    if is_decoder_only(model):
        if asked not in (None, ("decoder",)):
            raise PrefixError(f"parts is {list(asked or ())}, but {name} has a decoder alone")
        return ("decoder",)
    has = PARTS if model.config.is_encoder_decoder else ("encoder",)
    reached = {place.part for place in places_of(model)} if reaches_attention(model) else set()
    for part in asked or has:
        if part not in has:
            raise PrefixError(f"parts names '{part}', but {name} has only {', '.join(has)}")
        if part not in reached:
            others = [other for other in has if other in reached]
            hint = f"; choose parts among {', '.join(others)}" if others else ""
            raise PrefixError(
                f"{name} computes its {_ATTENTION[part]} itself, out of reach of transformers' "
                f"AttentionInterface, so that part has no place for a prefix{hint}"
            )
    return tuple(part for part in PARTS if part in (asked or has))


def chosen_places(places: list[Place], layers: tuple[int, ...] | None) -> list[Place]:
    """The places in these layers of every part. Raises PrefixError for a layer there is not."""
    if layers is None:
        return places
    last = min(
        max(place.layer for place in places if place.part == part) for part in _parts(places)
    )
    if layers[-1] > last:
        raise PrefixError(f"layers names {layers[-1]}, but the model's layers are 0 to {last}")
    return [place for place in places if place.layer in layers]


def shapes_of(places: list[Place]) -> Shapes:
    """For each place the shapes of keys and values."""
    return [(place.key_shape, place.value_shape) for place in places]


def of_places(kv: KVPrefix, places: list[Place]) -> KVPrefix:
    """What of a prefix belongs to the parts of these places; all of it where it names no parts."""
    if kv.parts is not None:
        return kv.of_parts(_parts(places))
    if len(kv.keys) != len(places):
        # Left to the check that names both numbers.
        return kv
    return replace(kv, parts=tuple(place.part for place in places))


def _parts(places: list[Place]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.part for place in places))


_ATTENTION = {
    "encoder": "encoder's self-attention",
    "decoder": "decoder's self-attention",
    "cross": "cross-attention",
}


def run(model: PreTrainedModel, source: torch.Tensor, target: torch.Tensor | None) -> Any:
    """The output of the model without its head for tokens `[batch, tokens]`."""
    extra: dict[str, Any] = {}
    device = input_device(model)
    if model.config.is_encoder_decoder:
        assert target is not None
        extra = {"decoder_input_ids": target.to(device), "use_cache": False}
    return model.base_model(input_ids=source.to(device), **extra)


def takes(module: Any, name: str) -> bool:
    """Whether a module's forward has a parameter of that name."""
    return name in inspect.signature(module.forward).parameters


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, for this thread alone, and back again."""
    with turn_of(model):
        training = model.training
        model.eval()
        try:
            yield
        finally:
            model.train(training)


@contextmanager
def on_tokens_alone(model: PreTrainedModel) -> Iterator[None]:
    """Raise PrefixError where a model fails that is given tokens and a plain cache alone."""
    try:
        yield
    except (PrefixError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise whatever they like for what they were not made for
        # Memory that ran out outside of CUDA's allocator has no class of its own.
        if any(sign in str(error) for sign in ("memory", "ALLOC_FAILED")):
            raise
        raise PrefixError(
            f"{type(model).__name__} does not run on tokens and a plain KV cache alone "
            f"({_why(error)}), so it has no place for a prefix"
        ) from error


def _why(error: Exception) -> str:
    """What a model says of why it does not run; where, when its own code stumbles instead."""
    said = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", first_line(error)).rstrip(".")
    # What a TypeError says of an argument is of the call, and torch speaks of what it was given.
    stumbles = isinstance(error, AttributeError | LookupError | TypeError)
    where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not stumbles or "argument" in said or "torch" in where.parts:
        return said
    return f"{type(error).__name__} in its own code, {where.name}"


def _shape(tensor: torch.Tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[3])
