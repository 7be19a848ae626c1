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

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import Place, chosen_places, takes
from pipeline.prefix.architecture.routing import routed
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.attention_modules import by_name
from pipeline.prefix.injection.hooks import AtWork, Injection
from pipeline.prefix.injection.part_exactness import is_exact_part
from pipeline.prefix.injection.part_handler import PartHandler, has_bias
from pipeline.prefix.injection.replay import Contexts
from pipeline.prefix.injection.stacks import PAST, POSITIONS, counted, positional, stacks_of
from pipeline.prefix.injection.windows import window_of
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PARTS


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
            place.part: place.module for place in reversed(places) if has_bias(place.module)
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
        handler = PartHandler(
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

    handler: PartHandler | None = None
