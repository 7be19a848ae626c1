"""Prefixes in encoders, decoders with an encoder, and cross-attention.

The counterpart of `pipeline.prefix.injection.causal` for models that are not causal throughout:
every attention call of the frozen model gets the prefix of its place before its own keys and values
(`pipeline.prefix.architecture.routing`), and the input starts at position p, as it does after a
text of p tokens. The KV cache of a decoder holds the input's tokens alone, so `generate`, beam
search and caches from call to call work as they do without a prefix.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import Place, chosen_places, takes
from pipeline.prefix.architecture.routing import AttentionCall, routed
from pipeline.prefix.injection.hooks import AtWork, Injection
from pipeline.prefix.injection.replay import Contexts
from pipeline.prefix.kv import KVPrefix

Pair = tuple[torch.Tensor, torch.Tensor]
_PAST = "past_key_values_length"


class PartInjection(Injection):
    """The prefix of one `PrefixModel` in the places of its frozen model."""

    def __init__(
        self,
        model: PreTrainedModel,
        places: list[Place],
        layers: tuple[int, ...] | None,
        prefix: Callable[[], KVPrefix],
    ) -> None:
        super().__init__(model)
        self._places = chosen_places(places, layers)
        # Where only the first layer holds the table of relative positions, the others share it,
        # whether or not that layer has a prefix.
        self._biased = {
            place.part: place.module for place in reversed(places) if _has_bias(place.module)
        }
        self._prefix = prefix
        self._at_work = _AtWork()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the frozen model see the prefix, of the parameters as they are on entering."""
        before = self._at_work.handler
        handler = _Handler(self._places, self._biased, self._prefix(), self._model.dtype)
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
        return nullcontext(), routed(self._model, handler)

    def _hooks(self) -> Iterator[RemovableHandle]:
        """Those that move positions."""
        for module in _positional(self._model, {place.part for place in self._places}):
            yield module.register_forward_pre_hook(self._move_positions, with_kwargs=True)

    def _move_positions(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        handler = self._at_work.handler
        if not self._at_work.active or handler is None:
            return None
        p = handler.length
        if not takes(module, _PAST):
            return (args[0] + p, *args[1:]), kwargs
        names = list(inspect.signature(module.forward).parameters)
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
        name = _PAST if bound.get("position_ids") is None else "position_ids"
        bound[name] = bound.get(name, 0) + p
        return (), bound


class _AtWork(AtWork):
    """With the handler of the call that is under way."""

    handler: "_Handler | None" = None


class _Handler:
    """Puts the prefix of each place before the keys and values of its attention calls."""

    def __init__(
        self, places: list[Place], biased: dict[str, Any], kv: KVPrefix, dtype: torch.dtype
    ) -> None:
        self.length = len(kv)
        self._biased = biased
        self._at: dict[int, tuple[Place, Pair]] = {
            id(place.module): (place, (key.to(dtype), value.to(dtype)))
            for place, key, value in zip(places, kv.keys, kv.values, strict=True)
        }

    def __call__(self, call: AttentionCall) -> None:
        if id(call.module) not in self._at:
            return
        place, (key, value) = self._at[id(call.module)]
        batch, queries, keys = call.key.shape[0], call.query.shape[2], call.key.shape[2]
        if (bias := call.extra.get("position_bias")) is not None:
            before = self._bias(place, call, queries, keys).to(bias.dtype)
            rows = max(len(before), len(bias))
            joined = [part.expand(rows, -1, -1, -1) for part in (before, bias)]
            call.extra = {**call.extra, "position_bias": torch.cat(joined, dim=-1)}
        call.mask = self._mask(place, call, queries, keys)
        call.key = torch.cat([key.expand(batch, -1, -1, -1), call.key], dim=2)
        call.value = torch.cat([value.expand(batch, -1, -1, -1), call.value], dim=2)

    def _mask(
        self, place: Place, call: AttentionCall, queries: int, keys: int
    ) -> torch.Tensor | None:
        """The call's mask, with the prefix shown to every query."""
        p, mask = self.length, call.mask
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
    last = mask[:, 0, -1]
    visible = last if last.dtype == torch.bool else last > torch.finfo(last.dtype).min / 2
    return visible.long().argmax(dim=-1)


def _positional(model: PreTrainedModel, parts: set[str]) -> list[nn.Module]:
    """The modules that give the input of a part's stack its absolute positions."""
    stacks: list[Any] = []
    if not model.config.is_encoder_decoder:
        stacks = [model.base_model]
    else:
        stacks += [model.get_encoder()] if "encoder" in parts else []
        stacks += [model.get_decoder()] if "decoder" in parts else []
    modules = [dict(stack.named_modules()) for stack in stacks]
    counted = [m for named in modules for m in named.values() if takes(m, _PAST)]
    if counted:
        return counted
    return [
        module
        for named in modules
        for name, module in named.items()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
