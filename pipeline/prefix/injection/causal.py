"""Hooks that give a frozen transformers model its prefix, without touching its code.

They act only while the `PrefixModel` that they belong to is called, so that several prefixes and
the bare model can take turns. There are two kinds, both torch's public extension points. One on
the model extends what the caller passes (mask, positions, cache) by the prefix. One on each
attention or recurrent module gives the cache back when gradient checkpointing has taken it away:
transformers drops every cache from a checkpointed layer, since replaying a layer would append its
tokens twice; ours appends nothing in training.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.choosing import chooses_by_place
from pipeline.prefix.architecture.context import first_positions
from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.architecture.padding import counts_padding
from pipeline.prefix.architecture.parts import on_tokens_alone
from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.architecture.shapes import CacheShapes, chosen_shapes
from pipeline.prefix.architecture.spatial import SpatialPositions
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.caches import holds_tokens
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.attention_modules import (
    attends,
    beyond_states,
    by_name,
    cache_argument,
    called_layer,
    masked,
)
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.exactness import (
    Injected,
    is_exact,
    other_inputs,
    padded_call,
    writes_as_it_reads,
)
from pipeline.prefix.injection.hooks import AtWork, Injection
from pipeline.prefix.injection.layout import (
    Layout,
    distance_counts_keys,
    hides_within,
    lay_out,
)
from pipeline.prefix.injection.replay import Contexts
from pipeline.prefix.injection.rotation import refuse_mixed_rotation
from pipeline.prefix.injection.state_rows import refuse_what_states_do_not_bear
from pipeline.prefix.injection.states_read import why_states_are_not_read
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig

# Which tokens are an image's: where masks are made of them, they stand beside the keys.
_TYPES = ("token_type_ids", "mm_token_type_ids")


class _AtWork(AtWork):
    """With the cache of the forward pass that is under way, and its layout."""

    cache: PrefixCache | None = None
    layout: Layout | None = None


class CausalInjection(Injection):
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
    ) -> None:
        super().__init__(model)
        self._config = config
        self._shapes = shapes
        self._chosen = chosen_shapes(shapes, config)
        self._prefix = prefix
        self._ordered = distance_counts_keys(model.config)
        self._at_work = _AtWork()
        if config.prefix_always_visible and hides_within(model.config):
            raise PrefixError(
                f"prefix_always_visible: {type(model).__name__} hides distant keys inside its "
                "attention, where no mask can show them; leave it false"
            )
        self._chooses_by_place = bool(shapes.index) and chooses_by_place(model)
        if config.layers is not None:
            self._refuse_to_hide("layers")
        self._switch = rotary_switch(model.config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._spatial = SpatialPositions(model)
        # None until it is tried whether a call's types of tokens are to be moved by the prefix.
        self._moves_types = moves_types
        self._on_trial = moves_types is not None
        self._pads_exactly: bool | None = None
        self._first = first if self._on_trial else self._first_position()

    def _first_position(self) -> int:
        """The position that the model gives to a text's first token.

        Raises PrefixError, with the reason, for a model in which no prefix is a text.
        """
        kinds = self._chosen.kinds
        if "state" in kinds:
            with on_tokens_alone(self._model):
                reason = why_states_are_not_read(self._model, _trial_on)
            if reason is not None:
                raise PrefixError(reason)
        for first in first_positions(self._model):
            trial = self._trial(False, first)
            exact = is_exact(self._model, trial, way=f"from {first}", kinds=kinds)
            if exact and (first == 0 or writes_as_it_reads(self._model)):
                return first
        raise PrefixError(
            f"{type(self._model).__name__} computes something else after a prefix than after the "
            "same text: it looks ahead, or counts positions in a way of its own, so a prefix "
            "has no exact place in it"
        )

    def pads_exactly(self) -> bool:
        """Whether padding before a row changes nothing that it would not change after a text."""
        if self._pads_exactly is None:
            active, self._at_work.active = self._at_work.active, False
            try:
                self._pads_exactly = is_exact(
                    self._model,
                    self._trial(False, self._first),
                    padded_call(self._model, self._first),
                    "padded",
                    self._chosen.kinds,
                )
            finally:
                self._at_work.active = active
        return self._pads_exactly

    def _refuse_to_hide(self, what: str) -> None:
        if self._chooses_by_place:
            raise PrefixError(
                f"{what}: {type(self._model).__name__} chooses among keys whatever a mask hides, "
                "so that the prefix can be hidden from none of its layers"
            )

    def new_cache(self) -> PrefixCache:
        """An empty growing cache after the prefix, to carry from call to call."""
        return self._new_cache(growing=True)

    def _new_cache(self, growing: bool) -> PrefixCache:
        kv = self._prefix()
        placed = on_its_layers(kv, self._model) or kv
        return PrefixCache(placed, self._shapes, growing, self._at_work.without_states)

    @contextmanager
    def active(self) -> Iterator[None]:
        with super().active(), self._spatial.after(self._config.num_virtual_tokens):
            yield

    def go_on(self, cache: Any) -> None:
        self._spatial.offset = getattr(cache, "offset", None)

    def recompute_context(self) -> Contexts:
        return nullcontext(), self._using(self._at_work.cache, self._at_work.layout)

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield self._model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield self._model.register_forward_hook(
            self._after_model, with_kwargs=True, always_call=True
        )
        for module in self._model.modules():
            if name := cache_argument(module, recurrent=bool(self._shapes.states)):
                # No function of its own: a copy's hooks are the copy's, and can be pickled.
                hook = partial(self._give, name)
                yield module.register_forward_pre_hook(hook, with_kwargs=True)

    @contextmanager
    def _using(self, cache: PrefixCache | None, layout: Layout | None) -> Iterator[None]:
        here = self._at_work
        before = here.cache, here.layout
        here.cache, here.layout = cache, layout
        try:
            with turn_of(self._model), nullcontext() if cache is None else cache.replayed():
                yield
        finally:
            here.cache, here.layout = before

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
            if others and not self._on_trial:
                self._admit(others, bound)
        mask = bound.get("attention_mask")
        if mask is None:
            mask = torch.ones(batch, past + length, dtype=torch.long, device=tokens.device)
        if mask.ndim != 2:
            raise PrefixError(
                "attention_mask must be [batch, tokens], with 1 for tokens to attend to"
            )
        if self._takes_positions:
            positions = bound.get("position_ids")
            if positions is None and (others or cache.after_others):
                positions = self._own_positions(tokens, bound, cache)
            if positions is None:
                # Counting real tokens only: left padding does not move what follows it.
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0) + self._first
            bound["position_ids"] = positions[..., -length:] + p
        if not bool(mask[:, 0].all()) and counts_padding(self._model):
            raise PrefixError(
                f"{type(self._model).__name__} counts the padding before a row as its tokens; give "
                "rows of one length, or pad on the right"
            )
        if self._shapes.states:
            refuse_what_states_do_not_bear(self._model, cache, mask, past, self._ordered)
        if not (past or self._on_trial or mask[:, 0].all() or self.pads_exactly()):
            raise PrefixError(
                f"{type(self._model).__name__} computes something else after a prefix than after "
                "the same text where padding stands before a row; give rows of one length, or pad "
                "on the right"
            )
        if self._switch is not None:
            refuse_mixed_rotation(mask, p, past, self._switch)
        layout = lay_out(mask, p, self._ordered)
        for name in _TYPES if self._moves_types else ():
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

    def _admit(self, others: frozenset[str], bound: dict[str, Any]) -> None:
        """Find out how a prefix is exact beside inputs that are no tokens.

        Raises PrefixError, which names them, where it is not.
        """
        active, self._at_work.active = self._at_work.active, False
        # Where they make a mask, half precision could take what is not moved for rounding.
        ways = (True, False) if any(bound.get(name) is not None for name in _TYPES) else (False,)
        try:
            with self._spatial.after(0):
                for moves in ways:
                    trial = self._trial(moves, self._first)
                    if is_exact(self._model, trial, bound, f"types moved: {moves}"):
                        self._moves_types = moves
                        return
        finally:
            self._at_work.active = active
        raise PrefixError(
            f"{type(self._model).__name__} computes something else with "
            f"{', '.join(sorted(others))} after a prefix than after the same text; give it tokens "
            "alone"
        )

    def _trial(self, moves_types: bool, first: int) -> Injected:
        return _trial_on(self._model, self._shapes, moves_types, first)

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

    def _shows(self, layer: int | None) -> bool | None:
        """Whether a layer's mask must show the prefix or hide it; None to leave it as it is."""
        if self._config.layers is not None and layer not in self._config.layers:
            return False
        return True if self._config.prefix_always_visible else None

    def _place(self, layer: int | None) -> int | None:
        """Which of the prefix's keys and values a layer's are; None where it has none."""
        layers = list(self._chosen.attention)
        return layers.index(layer) if layer in layers else None

    def _give(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        cache, layout = self._at_work.cache, self._at_work.layout
        if cache is None:
            return None
        args, kwargs = beyond_states(module, args, kwargs)
        if kwargs.get(name) is None:
            kwargs = {**kwargs, name: cache}
        if layout is None or not cache.prefix_length or not attends(module):
            return args, kwargs
        layer = called_layer(module, kwargs)
        if (shows := self._shows(layer)) is not None:
            kwargs = masked(module, args, kwargs, layout.is_prefix, shows)
        hidden, place = self._at_work.hidden, self._place(layer)
        if hidden is not None and place is not None and hidden[place].any():
            self._refuse_to_hide("hidden virtual tokens")
            kwargs = masked(module, args, kwargs, layout.of_tokens(hidden[place]), False)
        return args, kwargs


def _trial_on(
    model: PreTrainedModel, shapes: CacheShapes, moves_types: bool = False, first: int = 0
) -> Injected:
    """Another prefix of a model, of all layers, brought in as its own is."""

    @contextmanager
    def injected(kv: KVPrefix) -> Iterator[None]:
        config = PrefixConfig(len(kv), kinds=kv.kinds)
        trial = CausalInjection(model, config, shapes, lambda: kv, moves_types, first)
        try:
            with trial.active():
                yield
        finally:
            trial.detach()

    return injected
