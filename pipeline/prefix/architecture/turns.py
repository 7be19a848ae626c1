"""Callers of one frozen model take turns, whichever threads and prefix models they are of.

A prefix is brought in by hooks and by the attention function that the model's configuration names,
and some models keep state of their own between the steps of a generation (M-RoPE's offset, RoPE
that grows with the length). A frozen model is therefore at work for one call at a time: a forward
pass, a whole generation, the replay of a checkpointed layer.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_turns: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_adding = threading.Lock()


def _begin_anew() -> None:
    """In a forked process: whoever else had a turn is a thread that is not there."""
    global _turns, _adding
    _turns, _adding = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def turn_of(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread is at work with a frozen model, and keep others waiting.

    Reentrant: a thread whose turn it is may ask again, as a streamer does that calls the model.
    """
    with _adding:
        turn = _turns.setdefault(model, threading.RLock())
    with turn:
        yield
