"""Hooks that give each layer of a causal model the cache and the mask of its prefix.

One on each attention or recurrent module gives the cache back when gradient checkpointing has taken
it away: transformers drops every cache from a checkpointed layer, since replaying a layer would
append its tokens twice; ours appends nothing in training. It hides the prefix, or shows it, where
that is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.choosing import chooses_by_place
from pipeline.prefix.architecture.shapes import CacheShapes, chosen_shapes
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.attention_modules import (
    attends,
    beyond_states,
    cache_argument,
    called_layer,
    masked,
)
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.hooks import AtWork, Injection
from pipeline.prefix.injection.layout import Layout
from pipeline.prefix.injection.replay import Contexts
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.states import layer_of


class _AtWork(AtWork):
    """With the cache of the forward pass that is under way, and its layout."""

    cache: PrefixCache | None = None
    layout: Layout | None = None
    in_groups: PrefixCache | None = None
    """What the forward call that begins is to fill, where it is computed by groups of rows."""


class LayerCalls(Injection):
    """The hooks of a causal model's layers; who sets the cache and the layout is a subclass."""

    def __init__(self, model: PreTrainedModel, config: PrefixConfig, shapes: CacheShapes) -> None:
        super().__init__(model)
        self._config = config
        self._shapes = shapes
        self._chosen = chosen_shapes(shapes, config)
        # Layers that recur and have no keys, though their modules may be called attention.
        self._without_keys = {*map(layer_of, shapes.states)} - {*shapes.attention}
        self._at_work = _AtWork()
        self._chooses_by_place = bool(shapes.index) and chooses_by_place(model)
        if config.layers is not None:
            self._refuse_to_hide("layers")

    def _refuse_to_hide(self, what: str) -> None:
        if self._chooses_by_place:
            raise PrefixError(
                f"{what}: {type(self._model).__name__} chooses among keys whatever a mask hides, "
                "so that the prefix can be hidden from none of its layers"
            )

    def recompute_context(self) -> Contexts:
        here = self._at_work
        return nullcontext(), self._using(here.cache, here.layout, here.hidden)

    def _hooks(self) -> Iterator[RemovableHandle]:
        for module in self._model.modules():
            if name := cache_argument(module, recurrent=bool(self._shapes.states)):
                # No function of its own: a copy's hooks are the copy's, and can be pickled.
                hook = partial(self._give, name)
                yield module.register_forward_pre_hook(hook, with_kwargs=True)

    @contextmanager
    def _using(
        self, cache: PrefixCache | None, layout: Layout | None, hidden: torch.Tensor | None
    ) -> Iterator[None]:
        here = self._at_work
        before = here.cache, here.layout, here.hidden
        here.cache, here.layout, here.hidden = cache, layout, hidden
        try:
            with turn_of(self._model), nullcontext() if cache is None else cache.replayed():
                yield
        finally:
            here.cache, here.layout, here.hidden = before

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
        if layer in self._without_keys:
            return args, kwargs
        if (shows := self._shows(layer)) is not None:
            kwargs = masked(module, args, kwargs, layout.is_prefix, shows)
        hidden, place = self._at_work.hidden, self._place(layer)
        if hidden is not None and place is not None and hidden[place].any():
            self._refuse_to_hide("hidden virtual tokens")
            kwargs = masked(module, args, kwargs, layout.of_tokens(hidden[place]), False)
        return args, kwargs
