"""Stopping a training cleanly between two optimizer steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The signal that asked for an end, if any."""

    signal_number: int | None = None


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of dying of them, so that the step at hand can be finished.

    A second signal stops at once, as a KeyboardInterrupt. Outside of the main thread signals are
    left as they are: Python delivers them nowhere else.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: FrameType | None) -> None:
        if asked.signal_number is not None:
            raise KeyboardInterrupt
        asked.signal_number = number

    before: dict[int, Any] = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
