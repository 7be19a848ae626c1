"""Hooks that give a frozen transformers model its prefix, without touching its code.

They act only while the `PrefixModel` that they belong to is called, so that several prefixes and
the bare model can take turns. There are two kinds, both torch's public extension points. One on
the model extends what the caller passes (mask, positions, cache) by the prefix. One on each layer
gives it the cache and the mask of the prefix (`pipeline.prefix.injection.layer_calls`).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.architecture.one_pass import is_one_pass_asked
from pipeline.prefix.architecture.padding import counts_padding
from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.architecture.spatial import SpatialPositions
from pipeline.prefix.caches import holds_tokens
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.admission import TYPES, Admission
from pipeline.prefix.injection.attention_modules import by_name
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.exactness import Injected, other_inputs
from pipeline.prefix.injection.layer_calls import LayerCalls
from pipeline.prefix.injection.layout import distance_counts_keys, hides_within, lay_out
from pipeline.prefix.injection.rotation import refuse_mixed_rotation
from pipeline.prefix.injection.row_groups import computed_in_groups
from pipeline.prefix.injection.state_rows import (
    has_gaps,
    refuse_what_states_do_not_bear,
    why_states_bear_no_padding_before,
)
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig


class CausalInjection(LayerCalls):
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
        super().__init__(model, config, shapes)
        self._prefix = prefix
        self._ordered = distance_counts_keys(model.config)
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
        self._on_trial = moves_types is not None
        self._tries_groups = tries_groups
        self._pads_exactly: bool | None = None
        self._admission = Admission(model, shapes, self._chosen.kinds, _trial_on)
        self._first = first if self._on_trial else self._admission.first_position()

    def pads_exactly(self) -> bool:
        """Whether padding before a row changes nothing that it would not change after a text."""
        if self._pads_exactly is None:
            with self._resting():
                self._pads_exactly = self._admission.pads_exactly(self._first)
        return self._pads_exactly

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """The model without the prefix, for trials of others within a call."""
        active, self._at_work.active = self._at_work.active, False
        try:
            yield
        finally:
            self._at_work.active = active

    def new_cache(self) -> PrefixCache:
        """An empty growing cache after the prefix, to carry from call to call."""
        return self._new_cache(growing=True)

    def _new_cache(self, growing: bool) -> PrefixCache:
        kv = self._prefix()
        placed = on_its_layers(kv, self._model) or kv
        return PrefixCache(placed, self._shapes, growing, self._at_work.without_states)

    @contextmanager
    def active(self) -> Iterator[None]:
        # States alone take no place among the tokens.
        p = self._config.num_virtual_tokens if self._chosen.attention else 0
        with super().active(), self._spatial.after(p), self._forward_in_groups():
            yield

    @contextmanager
    def _forward_in_groups(self) -> Iterator[None]:
        """The model with a forward that is several where `_before_model` says so."""
        here, own = vars(self._model), vars(self._model).get("forward")
        forward = self._model.forward

        @wraps(forward)
        def in_groups(*args: Any, **kwargs: Any) -> Any:
            # In a thread beside, or within a group, there is none.
            cache, self._at_work.in_groups = self._at_work.in_groups, None
            if cache is None:
                return forward(*args, **kwargs)
            return computed_in_groups(
                self._model, kwargs, cache, self.cache_name, self._goes_on, self._ordered
            )

        here["forward"] = in_groups
        try:
            yield
        finally:
            del here["forward"]
            if own is not None:
                here["forward"] = own

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

    def _goes_in_groups(self, cache: PrefixCache, mask: torch.Tensor, past: int) -> bool:
        """Whether rows are computed by groups, since padding is before some and one pass errs.

        Raises PrefixError where they can be computed in no way.
        """
        if cache.is_joined or cache.apart is not None:
            if has_gaps(mask):
                raise PrefixError(
                    f"{type(self._model).__name__}: rows that were computed by groups go on with "
                    "tokens that have no padding between them; give a cache rows of one length "
                    "from call to call"
                )
            return cache.apart is not None
        if bool(mask[:, 0].all()):
            return False
        if (reason := self._why_not_in_one_pass(cache, past)) is None:
            return False
        if past or is_one_pass_asked() or (self._on_trial and not self._tries_groups):
            raise PrefixError(f"{reason}; give rows of one length, or pad on the right")
        return True

    def _why_not_in_one_pass(self, cache: PrefixCache, past: int) -> str | None:
        """Why a row with padding before it is not, in one pass, what it is alone; None if it is."""
        name = type(self._model).__name__
        if counts_padding(self._model):
            return f"{name} counts the padding before a row as its tokens"
        if self._shapes.states:
            reason = why_states_bear_no_padding_before(self._model, cache, self._ordered)
            if reason is not None:
                return reason
        if past or self._on_trial or self.pads_exactly():
            return None
        return (
            f"{name} computes something else after a prefix than after the same text where padding "
            "stands before a row"
        )

    def _goes_on(self) -> bool:
        """Whether rows that were computed by groups can be decoded from one cache."""
        if self._tries_groups:
            return True
        with self._resting():
            return self._admission.goes_on()

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
        self._at_work.cache = self._at_work.layout = None
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
