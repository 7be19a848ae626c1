"""Work that a training does not wait for, one piece at a time."""

import threading
from collections.abc import Callable

THREAD = "checkpoint"
"""The name of the thread that it is done in."""


class Aside:
    """A thread beside the training. A process ends after its work, unless it is killed."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last piece of work is not done yet."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Begin a piece of work, once the last one is done. Raises what that raised."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name=THREAD)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is left to do. Raises what the last piece of work raised."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
