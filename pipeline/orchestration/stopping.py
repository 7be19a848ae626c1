"""Ctrl-C, or a request to end: at the first the stages at work stop, at the second all ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """The signal that asked for an end, if any; `stop` is called when it comes."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.stop: Callable[[], None] | None = None
        self._waits = False

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. Raises KeyboardInterrupt for a second one."""
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        if self.stop is not None and not self._waits:
            self.stop()

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Within it work is given out; a signal that comes meanwhile stops it afterwards."""
        before, self._waits = self.signal_number, True
        try:
            yield
        finally:
            self._waits = False
            if self.signal_number != before and self.stop is not None:
                self.stop()


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Note SIGINT and SIGTERM, where Python delivers them: in the main thread."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before: dict[int, Any] = {n: signal.signal(n, stopping.note) for n in _SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
