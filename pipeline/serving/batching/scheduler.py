"""The thread that owns the frozen model: choices wait, join, are computed together, and leave."""

import threading
from collections import deque
from collections.abc import Sequence

from transformers import PreTrainedModel

from pipeline.inference.continuations import Batch
from pipeline.serving.batching.choice import Choice, Piece

_MOST_READ = 2048  # tokens of the inputs that are read in one pass; one input may have more


class QueueFullError(Exception):
    """As many choices wait as may."""


class ClosedError(Exception):
    """The server is about to end and takes nothing more."""


class Scheduler:
    """Continuous batching with bounds: rows at once, tokens of all caches, and what waits.

    First come, first served: a choice that has no room yet holds up those behind it, so that a long
    one is not passed over for ever.

    Args:
        max_running: rows that are computed together.
        max_waiting: choices that wait at the most; more are refused.
        max_cache_tokens: tokens, inputs and answers, that all rows have room for.
    """

    def __init__(
        self,
        frozen_model: PreTrainedModel,
        max_running: int,
        max_waiting: int,
        max_cache_tokens: int,
    ) -> None:
        self._model = frozen_model
        self._batch: Batch[Choice] = Batch(frozen_model)
        self._max_running, self._max_waiting = max_running, max_waiting
        self.max_cache_tokens = max_cache_tokens
        self._waiting: deque[Choice] = deque()
        self._changed = threading.Condition()
        self._is_closed = self._is_ended = False
        self.generated_tokens = self.read_tokens = 0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def submit(self, choices: Sequence[Choice]) -> None:
        """Let the choices of a request wait, all of them or none.

        Raises QueueFullError or ClosedError.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError
            if len(self._waiting) + len(choices) > self._max_waiting:
                raise QueueFullError
            self._waiting.extend(choices)
            self._changed.notify()

    def cancel(self, choices: Sequence[Choice]) -> None:
        """Nobody waits for these any more: they leave before the next token."""
        with self._changed:
            for choice in choices:
                choice.is_cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Take nothing more; what was taken is finished."""
        with self._changed:
            self._is_closed = True

    def end(self, seconds: float | None = None) -> None:
        """Stop computing after the token at hand, and wait for that."""
        with self._changed:
            self._is_closed = self._is_ended = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._is_closed

    @property
    def is_alive(self) -> bool:
        """Whether the thread is there that computes."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many choices wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many rows are computed together."""
        return len(self._batch.running)

    @property
    def cached_tokens(self) -> int:
        """Tokens that there is room for in the caches of all rows."""
        return self._batch.cached_tokens

    def _run(self) -> None:
        while self._wait():
            # Until nothing is left, so that whoever else uses the model has a turn.
            with self._batch.at_work():
                while self._waiting or self._batch.running:
                    self._go_on()
                    if self._is_ended:
                        break
        with self._changed:
            for choice in (*self._batch.running, *self._waiting):
                choice.emit(Piece(error="the server is ending"))
            self._batch.leave(self._batch.running)
            self._waiting.clear()

    def _go_on(self) -> None:
        self._batch.leave([each for each in self._batch.running if each.is_cancelled])
        if joining := self._next():
            self._begin(joining)
        if self._batch.running:
            self._step()

    def _wait(self) -> bool:
        """Wait until there is something to compute; false for the end."""
        with self._changed:
            while not (self._waiting or self._batch.running or self._is_ended):
                self._changed.wait()
            return not self._is_ended

    def _next(self) -> list[Choice]:
        """Those that join now, in the order in which they came."""
        joining: list[Choice] = []
        rows, cached, read = self.running, self.cached_tokens, 0
        with self._changed:
            self._waiting = deque(each for each in self._waiting if not each.is_cancelled)
            while self._waiting and rows < self._max_running:
                first = self._waiting[0]
                cached += first.cached_tokens
                read += len(first.beginning.input_ids)
                if cached > self.max_cache_tokens or (joining and read > _MOST_READ):
                    break
                joining.append(self._waiting.popleft())
                rows += 1
        return joining

    def _begin(self, joining: Sequence[Choice]) -> None:
        try:
            self._batch.begin(joining)
        except Exception as error:  # whatever it is, the others go on
            self._batch.leave(joining)
            for each in joining:
                each.fail(error)
            return
        self.read_tokens += sum(len(each.beginning.input_ids) for each in joining)
        self.generated_tokens += len(joining)

    def _step(self) -> None:
        running = self._batch.running
        try:
            self._batch.step()
        except Exception as error:  # caches may be half appended to: all of them go
            self._batch = Batch(self._model)
            for each in running:
                each.fail(error)
            return
        self.generated_tokens += len(running)
