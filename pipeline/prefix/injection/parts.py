"""Prefixes in encoders, decoders with an encoder, and cross-attention.

The counterpart of `pipeline.prefix.injection.causal` for models that are not causal throughout:
every attention call of the frozen model gets the prefix of its place before its own keys and values
(`pipeline.prefix.architecture.routing`), and the input starts at position p, as it does after a
text of p tokens. The KV cache of a decoder holds the input's tokens alone, so `generate`, beam
search and caches from call to call work as they do without a prefix.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import Place, chosen_places, takes
from pipeline.prefix.architecture.routing import AttentionCall, routed
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.attention_modules import by_name
from pipeline.prefix.injection.hiding import hiding
from pipeline.prefix.injection.hooks import AtWork, Injection
from pipeline.prefix.injection.part_exactness import is_exact_part
from pipeline.prefix.injection.replay import Contexts
from pipeline.prefix.injection.stacks import PAST, POSITIONS, counted, positional, stacks_of
from pipeline.prefix.injection.windows import window_of, within
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PARTS

Pair = tuple[torch.Tensor, torch.Tensor]


class PartInjection(Injection):
    """The prefix of one `PrefixModel` in the places of its frozen model."""

    def __init__(
        self,
        model: PreTrainedModel,
        places: list[Place],
        layers: tuple[int, ...] | None,
        prefix: Callable[[], KVPrefix],
        always_visible: bool = False,
        on_trial: bool = False,
    ) -> None:
        super().__init__(model)
        self._places = chosen_places(places, layers)
        self._window = None if always_visible else window_of(model)
        # Where only the first layer holds the table of relative positions, the others share it,
        # whether or not that layer has a prefix.
        self._biased = {
            place.part: place.module for place in reversed(places) if _has_bias(place.module)
        }
        self._prefix = prefix
        self._counts = Counter(id(place.module) for place in places)
        self._at_work = _AtWork()
        if not on_trial:
            self._refuse_inexact(places)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the frozen model see the prefix, of the parameters as they are on entering."""
        before = self._at_work.handler
        handler = _Handler(
            self._places,
            self._biased,
            self._prefix(),
            self._model.dtype,
            self._window,
            self._counts,
            self._at_work.hidden,
            self._model.config._attn_implementation.endswith("eager"),
        )
        self._at_work.handler = handler
        try:
            with super().active(), routed(self._model, handler):
                yield
        finally:
            self._at_work.handler = before

    def new_cache(self) -> None:
        """No cache: the model's own holds the input's tokens alone."""
        return

    def recompute_context(self) -> Contexts:
        handler = self._at_work.handler
        if handler is None:
            return super().recompute_context()
        # The replay's calls are counted on from those before this layer.
        return nullcontext(), routed(self._model, copy(handler))

    def _hooks(self) -> Iterator[RemovableHandle]:
        """Those that move positions, and those that begin to count a stack's layers."""
        for stack in stacks_of(self._model, set(PARTS)):
            yield stack.register_forward_pre_hook(self._begin)
        for module in positional(self._model, {place.part for place in self._places}):
            yield module.register_forward_pre_hook(self._move_positions, with_kwargs=True)

    def _begin(self, stack: nn.Module, _: Any) -> None:
        if self._at_work.handler is not None:
            self._at_work.handler.begin(stack)

    def _refuse_inexact(self, places: list[Place]) -> None:
        """Raise PrefixError for a part in which a prefix is not exactly a text read beforehand."""
        for part in dict.fromkeys(place.part for place in places):
            own = [place for place in places if place.part == part]
            # What crosses over has no positions of its own; its masks and keys are the encoder's.
            if part != "cross" and not is_exact_part(self._model, own, partial(self._trial, own)):
                raise PrefixError(
                    f"the {part} of {type(self._model).__name__} computes something else after a "
                    "prefix than after the same text, read beforehand: it counts positions or "
                    "distances in a way of its own, so a prefix has no exact place in it"
                )

    @contextmanager
    def _trial(self, places: list[Place], kv: KVPrefix) -> Iterator[None]:
        """Another prefix, in all places of one part, brought in as this one is."""
        trial = PartInjection(self._model, places, None, lambda: kv, on_trial=True)
        try:
            with trial.active():
                yield
        finally:
            trial.detach()

    def _move_positions(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        handler = self._at_work.handler
        if not self._at_work.active or handler is None:
            return None
        p = handler.length
        if isinstance(module, nn.Embedding) and not takes(module, PAST):
            return (args[0] + p, *args[1:]), kwargs
        bound = by_name(module, args, kwargs)
        name = POSITIONS
        if bound.get(name) is None and takes(module, PAST):
            name = PAST
        elif bound.get(name) is None:
            bound[name] = counted(bound)
        bound[name] = bound.get(name, 0) + p
        return (), bound


class _AtWork(AtWork):
    """With the handler of the call that is under way."""

    handler: "_Handler | None" = None


class _Handler:
    """Puts the prefix of each place before the keys and values of its attention calls."""

    def __init__(
        self,
        places: list[Place],
        biased: dict[str, Any],
        kv: KVPrefix,
        dtype: torch.dtype,
        window: int | None,
        counts: Counter[int],
        hidden: torch.Tensor | None,
        is_eager: bool,
    ) -> None:
        self._counts = counts
        self._is_eager = is_eager
        self._hidden = {
            (id(place.module), place.call): tokens
            for place, tokens in zip(places, () if hidden is None else hidden, strict=False)
        }
        self.length = len(kv)
        self._biased = biased
        self._window = window
        self._at: dict[tuple[int, int], tuple[Place, Pair]] = {
            (id(place.module), place.call): (place, (key.to(dtype), value.to(dtype)))
            for place, key, value in zip(places, kv.keys, kv.values, strict=True)
        }
        # How often each module was called in this pass, which layers that share one differ by.
        self._calls: dict[int, int] = {}

    def __copy__(self) -> "_Handler":
        twin = object.__new__(_Handler)
        twin.__dict__.update(self.__dict__, _calls=dict(self._calls))
        return twin

    def begin(self, stack: nn.Module) -> None:
        """A stack's next pass begins: its calls are counted anew."""
        for module in stack.modules():
            self._calls.pop(id(module), None)

    def __call__(self, call: AttentionCall) -> None:
        at = id(call.module), self._calls.get(id(call.module), 0)
        self._calls[at[0]] = at[1] + 1
        if 0 < self._counts[at[0]] <= at[1]:
            raise PrefixError(
                f"{type(call.module).__name__} is run more often in one pass than when its layers "
                "were counted, so a prefix has no place in the others; use a fixed depth"
            )
        if at not in self._at:
            return
        place, pair = self._at[at]
        key, value = (tensor.to(call.key.device) for tensor in pair)
        batch, queries, keys = call.key.shape[0], call.query.shape[2], call.key.shape[2]
        if (bias := call.extra.get("position_bias")) is not None:
            before = self._bias(place, call, queries, keys).to(bias.dtype)
            rows = max(len(before), len(bias))
            joined = [part.expand(rows, -1, -1, -1) for part in (before, bias)]
            call.extra = {**call.extra, "position_bias": torch.cat(joined, dim=-1)}
        call.mask = self._mask(place, call, queries, keys)
        call.key = torch.cat([key.expand(batch, -1, -1, -1), call.key], dim=2)
        call.value = torch.cat([value.expand(batch, -1, -1, -1), call.value], dim=2)
        if (hidden := self._hidden.get(at)) is not None and hidden.any():
            call.mask = hiding(call, hidden, self._is_eager)

    def _mask(
        self, place: Place, call: AttentionCall, queries: int, keys: int
    ) -> torch.Tensor | None:
        """The call's mask, with the prefix shown to every query, or to those within a window."""
        p, mask = self.length, call.mask
        if place.part == "encoder" and self._window and call.extra.get("sliding_window"):
            leading = _leading_padding(mask).to(call.key.device)
            near = within(self._window, leading, queries, p)
            if mask is None:
                mask = near.new_ones(1, 1, queries, keys)
            if mask.dtype != torch.bool:
                hidden = torch.finfo(mask.dtype).min
                near = torch.zeros_like(near, dtype=mask.dtype).masked_fill(~near, hidden)
            near = near.expand(mask.shape[0], mask.shape[1], -1, -1)
            return torch.cat([near, mask], dim=-1)
        if mask is None:
            if place.part != "decoder" or queries == 1:
                return None
            # transformers leaves out a mask that plain causality makes needless.
            whole = torch.ones(queries, p + keys, dtype=torch.bool, device=call.key.device)
            return whole.tril(p + keys - queries)[None, None]
        shown = True if mask.dtype == torch.bool else 0.0
        return torch.cat([mask.new_full((*mask.shape[:-1], p), shown), mask], dim=-1)

    def _bias(self, place: Place, call: AttentionCall, queries: int, keys: int) -> torch.Tensor:
        """The bias `[rows, heads, queries, p]` of a prefix that stands right before the input."""
        module = place.module if _has_bias(place.module) else self._biased.get(place.part)
        p = self.length
        if module is None:
            # Cross-attention: positions weigh nothing in it.
            return call.key.new_zeros(1, call.query.shape[1], queries, p)
        # Padding that leads a row stands before the prefix, not between it and the row.
        leading = _leading_padding(call.mask)
        table = module.compute_bias(
            queries,
            p + int(leading.max()),
            device=call.key.device,
            past_seen_tokens=p + keys - queries,
        )[0]
        columns = leading[:, None] + torch.arange(p, device=leading.device)
        return table[:, :, columns].permute(2, 0, 1, 3)


def _has_bias(module: Any) -> bool:
    return hasattr(module, "compute_bias") and hasattr(module, "relative_attention_bias")


def _leading_padding(mask: torch.Tensor | None) -> torch.Tensor:
    """How many hidden keys lead each row of a mask `[rows, 1, queries, keys]`: `[rows]`."""
    if mask is None:
        return torch.zeros(1, dtype=torch.long)
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
    # A query near the end may be far from what is hidden by a window, not by padding.
    return seen.any(dim=1).long().argmax(dim=-1)
