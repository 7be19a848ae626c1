"""Hooks that give a frozen transformers model its prefix, without touching its code.

They act only while the `PrefixModel` that they belong to is called, so that several prefixes and
the bare model can take turns. There are two kinds, both torch's public extension points. One on
the model extends what the caller passes (mask, positions, cache) by the prefix. One on each layer
gives it the cache and the mask of the prefix (`pipeline.prefix.injection.layer_calls`).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.architecture.spatial import SpatialPositions
from pipeline.prefix.caches import holds_tokens
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.admission import TYPES
from pipeline.prefix.injection.attention_modules import by_name
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.exactness import Injected, other_inputs
from pipeline.prefix.injection.grouped_calls import GroupedCalls
from pipeline.prefix.injection.layout import hides_within, lay_out
from pipeline.prefix.injection.rotation import refuse_mixed_rotation
from pipeline.prefix.injection.state_rows import refuse_what_states_do_not_bear
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig


class CausalInjection(GroupedCalls):
    """The hooks of a model that is causal throughout; `prefix` yields what they inject."""

    through_cache = True

    def __init__(
        self,
        model: PreTrainedModel,
        config: PrefixConfig,
        shapes: CacheShapes,
        prefix: Callable[[], KVPrefix],
        moves_types: bool | None = None,
        first: int = 0,
        tries_groups: bool = False,
    ) -> None:
        on_trial = moves_types is not None
        super().__init__(model, config, shapes, _trial_on, on_trial, tries_groups)
        self._prefix = prefix
        if config.prefix_always_visible and hides_within(model.config):
            raise PrefixError(
                f"prefix_always_visible: {type(model).__name__} hides distant keys inside its "
                "attention, where no mask can show them; leave it false"
            )
        self._switch = rotary_switch(model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._spatial = SpatialPositions(model)
        # None until it is tried whether a call's types of tokens are to be moved by the prefix.
        self._moves_types = moves_types
        self._first = first if on_trial else self._admission.first_position()

    def new_cache(self) -> PrefixCache:
        """An empty growing cache after the prefix, to carry from call to call."""
        return self._new_cache(growing=True)

    def _new_cache(self, growing: bool) -> PrefixCache:
        # Some prefixes are computed by the model itself, as it is.
        with self._resting(), self._spatial.after(0):
            kv = self._prefix()
        placed = on_its_layers(kv, self._model) or kv
        return PrefixCache(placed, self._shapes, growing, self._at_work.without_states)

    @contextmanager
    def active(self) -> Iterator[None]:
        # States alone take no place among the tokens.
        p = self._config.num_virtual_tokens if self._chosen.attention else 0
        with super().active(), self._spatial.after(p):
            yield

    def go_on(self, cache: Any) -> None:
        self._spatial.offset = getattr(cache, "offset", None)

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield self._model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield self._model.register_forward_hook(
            self._after_model, with_kwargs=True, always_call=True
        )
        yield from super()._hooks()

    def _before_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._at_work.active:
            return args, kwargs
        bound = by_name(module, args, kwargs)
        tokens = bound.get("input_ids")
        if tokens is None:
            tokens = bound.get("inputs_embeds")
        if tokens is None:
            raise PrefixError("give the model input_ids or inputs_embeds")
        batch, length = tokens.shape[:2]
        cache = bound.get(self.cache_name)
        if cache is not None and not isinstance(cache, PrefixCache):
            if holds_tokens(cache):
                raise PrefixError(
                    f"{self.cache_name} holds tokens that never saw the prefix; leave it out, or "
                    "pass on the cache that this model returned"
                )
            cache = None
        if cache is None:
            cache = self._new_cache(growing=bool(bound.get("use_cache")))
        past = cache.get_seq_length()
        p = cache.prefix_length
        # What follows a cached beginning was admitted with it, and counts on from it.
        others = other_inputs(bound)
        if not past:
            cache.after_others = bool(others)
        mask = bound.get("attention_mask")
        if mask is None:
            mask = torch.ones(batch, past + length, dtype=torch.long, device=tokens.device)
        if mask.ndim != 2:
            raise PrefixError(
                "attention_mask must be [batch, tokens], with 1 for tokens to attend to"
            )
        if self._goes_in_groups(cache, mask, past):
            cache.begin_forward(batch, length)
            self._at_work.in_groups = cache
            return (), {**bound, "attention_mask": mask, self.cache_name: cache}
        if others and not past and not self._on_trial:
            with self._resting(), self._spatial.after(0):
                self._moves_types = self._admission.moves_types(others, bound, self._first)
        if self._takes_positions:
            positions = bound.get("position_ids")
            if positions is None and (others or cache.after_others):
                positions = self._own_positions(tokens, bound, cache)
            if positions is None:
                # Counting real tokens only: left padding does not move what follows it.
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0) + self._first
            bound["position_ids"] = positions[..., -length:] + p
        if self._shapes.states:
            refuse_what_states_do_not_bear(self._model, cache, mask, past)
        if self._switch is not None:
            refuse_mixed_rotation(mask, p, past, self._switch)
        layout = lay_out(mask, p, self._ordered)
        for name in TYPES if self._moves_types else ():
            if bound.get(name) is not None:
                # Of a later call's tokens alone: nothing before them is told apart any more.
                before = layout.mask.shape[1] - bound[name].shape[1]
                types = torch.cat([bound[name].new_zeros(batch, before), bound[name]], dim=1)
                bound[name] = types if layout.order is None else types.gather(1, layout.order)
        cache.set_order(layout.order if past == 0 else None)
        bound["attention_mask"] = layout.mask
        bound[self.cache_name] = cache
        cache.begin_forward(batch, length)
        self._at_work.cache, self._at_work.layout = cache, layout
        return (), bound

    def _own_positions(
        self, tokens: torch.Tensor, bound: dict[str, Any], cache: PrefixCache
    ) -> torch.Tensor | None:
        """Positions `[axes, batch, tokens]` that a model counts in time and space (M-RoPE)."""
        self._spatial.offset = cache.offset
        embedded = tokens if tokens.ndim == 3 else tokens[..., None]
        given = {name: value for name, value in bound.items() if value is not None}
        return self._spatial.of_call({"inputs_embeds": embedded, **given, "past_key_values": cache})

    def _after_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        # Left in place, it would give the prefix to a later forward of the bare model.
        self._at_work.cache = self._at_work.layout = self._at_work.in_groups = None
        cache = kwargs.get(self.cache_name)
        if isinstance(cache, PrefixCache):
            cache.end_forward()
            cache.offset = self._spatial.offset
            # A cache that kept nothing is of no use to the caller, and would hold the graph alive.
            if not cache.growing and getattr(output, self.cache_name, None) is not None:
                setattr(output, self.cache_name, None)


def _trial_on(
    model: PreTrainedModel,
    shapes: CacheShapes,
    moves_types: bool = False,
    first: int = 0,
    tries_groups: bool = False,
) -> Injected:
    """Another prefix of a model, of all layers, brought in as its own is."""

    @contextmanager
    def injected(kv: KVPrefix) -> Iterator[None]:
        config = PrefixConfig(len(kv), kinds=kv.kinds)
        trial = CausalInjection(model, config, shapes, lambda: kv, moves_types, first, tries_groups)
        try:
            with trial.active():
                yield
        finally:
            trial.detach()

    return injected
