"""What every way of bringing a prefix into a frozen model has in common: it owns hooks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import Cache, PreTrainedModel

from pipeline.prefix.architecture.shapes import cache_argument_of
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.caches import chooses, empty_cache, recurs
from pipeline.prefix.injection.growing import GrowingCache
from pipeline.prefix.injection.replay import Contexts


class AtWork(threading.local):
    """What of an injection is at work, in each thread for itself.

    The bare model stays bare in a thread beside, and a replay in autograd's own thread finds what
    it was given there.
    """

    active = False
    hidden: torch.Tensor | None = None
    """Which virtual tokens no query attends to, in each place of the prefix: `[places, p]`."""
    without_states: frozenset[int] = frozenset()
    """Layers that recur from nothing, whatever states the prefix has for them."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy, or what is unpickled, is at work nowhere."""
        return type(self), ()


class Injection:
    """The hooks of one `PrefixModel` on its frozen model, which act while it is `active`.

    They are torch's own, so that several prefixes and the bare model can take turns. This class
    has none: it is the injection of an empty prefix.
    """

    through_cache = False
    """Whether the prefix comes in through the KV cache, which `generate` then has to be given."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.cache_name = cache_argument_of(model)
        """The name under which the model takes its cache."""
        self._handles: list[RemovableHandle] = []
        self._at_work = AtWork()

    def attach(self) -> None:
        """Add the hooks, which do nothing outside `active`; adding them twice adds them once."""
        with turn_of(self._model):
            if not self._handles:
                self._handles = list(self._hooks())

    def detach(self) -> None:
        """Remove every hook: the frozen model is as it was before."""
        with turn_of(self._model):
            for handle in self._handles:
                handle.remove()
            self._handles = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the frozen model see what is injected, in this thread, which has its turn."""
        with turn_of(self._model):
            before, self._at_work.active = self._at_work.active, True
            self.attach()
            try:
                yield
            finally:
                self._at_work.active = before

    @contextmanager
    def hiding(
        self, hidden: torch.Tensor, without_states: frozenset[int] = frozenset()
    ) -> Iterator[None]:
        """Let no query of this thread attend to some virtual tokens: boolean `[places, p]`.

        Layers of `without_states` recur from nothing.
        """
        here = self._at_work
        before = here.hidden, here.without_states
        here.hidden, here.without_states = hidden, without_states
        try:
            yield
        finally:
            here.hidden, here.without_states = before

    @property
    def hidden(self) -> torch.Tensor | None:
        """Which virtual tokens are hidden in this thread, boolean `[places, p]`."""
        return self._at_work.hidden

    def new_cache(self) -> Cache | None:
        """An empty growing cache; None where the model makes its own (an encoder-decoder)."""
        config = self._model.config
        return empty_cache(config) if recurs(config) or chooses(config) else GrowingCache()

    def pads_exactly(self) -> bool:
        """Whether padding before a row changes nothing that it would not change after a text."""
        return True

    def go_on(self, cache: Any) -> None:
        """Let a generation go on from what a cache was filled with."""

    def recompute_context(self) -> Contexts:
        """For a layer that runs now: its replay meets the prefix of its own forward pass."""
        return nullcontext(), turn_of(self._model)

    def _hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks on the frozen model."""
        return iter(())
