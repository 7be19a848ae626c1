"""Layers that gradient checkpointing recomputes meet what they met in their forward pass.

A frozen model has one setting of gradient checkpointing, whoever shares it: what a layer's replay
is given is asked for while the layer runs, of whoever is at work then.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
"""What a layer runs within, in its forward pass and in its replay."""


class _AtWork(threading.local):
    def __init__(self) -> None:
        self.contexts: list[Callable[[], Contexts]] = []


_at_work = _AtWork()


@contextmanager
def replayed_within(contexts: Callable[[], Contexts]) -> Iterator[None]:
    """Layers that this thread runs meanwhile are replayed as `contexts` says for each."""
    _at_work.contexts.append(contexts)
    try:
        yield
    finally:
        _at_work.contexts.pop()


def recompute_context() -> Contexts:
    """The `context_fn` of torch's checkpointing."""
    return _at_work.contexts[-1]() if _at_work.contexts else (nullcontext(), nullcontext())
