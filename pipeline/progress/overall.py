"""How far the whole is that a piece of work belongs to: one bar below the piece's own.

A command that knows the whole sets it (`watched`); the pieces, which do not know it, tell how far
they are. Nothing of this may fail a piece.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from pipeline.progress.watching import Watching, watching

_SECONDS_BETWEEN = 0.1  # two drawings

Sentence = Callable[[float, float], str]
"""What stands behind the bar, from the fraction of the step at hand that is behind and the seconds
that this much of it takes."""


class Overall:
    """`done` of `steps` are behind; the step at hand shows `pieces` bars, one after the other."""

    def __init__(self, steps: int, done: int, pieces: int, sentence: Sentence) -> None:
        self._steps, self._done, self._pieces = steps, done, max(1, pieces)
        self._sentence = sentence
        self._began = time.monotonic()
        self._ended = 0
        self._skipped = 0.0
        self._drawn = 0.0
        self._bar: tqdm | None = None

    @property
    def was_resumed(self) -> bool:
        """Whether the step at hand was begun by an earlier process."""
        return self._skipped > 0

    def begin(self, fraction: float) -> None:
        """A piece's bar is there: the whole's goes below it.

        What it begins with was done by an earlier process.
        """
        self._skipped += fraction / self._pieces
        if watching() is Watching.TERMINAL:
            self._bar = tqdm(
                total=self._steps,
                position=1,
                leave=False,
                dynamic_ncols=True,
                bar_format="sweep: {percentage:3.0f}%|{bar}| {desc}",
            )
            self.move(fraction)

    def move(self, fraction: float) -> None:
        """The piece at hand has come to this fraction of itself."""
        now = time.monotonic()
        if self._bar is None or (now - self._drawn < _SECONDS_BETWEEN and fraction < 1):
            return
        self._drawn = now
        # More pieces than were expected are the last one's: nothing is done before it is.
        of_step = min(0.99, (self._ended + fraction) / self._pieces)
        here = max(of_step - self._skipped, 1e-9)
        elapsed = (now - self._began) * of_step / here if of_step > self._skipped else 0.0
        self._bar.set_description_str(self._sentence(of_step, elapsed), refresh=False)
        self._bar.n = self._done + of_step
        self._bar.refresh()

    def end(self) -> None:
        """The piece's bar is about to go: the whole's is gone before."""
        self._ended += 1
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_watched: list[Overall] = []


@contextlib.contextmanager
def watched(overall: Overall | None) -> Iterator[None]:
    """Within it, bars tell this whole how far they are; None for work that belongs to none."""
    before = _watched[:]
    _watched[:] = [] if overall is None else [overall]
    try:
        yield
    finally:
        _watched[:] = before


def begin(fraction: float) -> None:
    """A bar was begun."""
    _tell(lambda overall: overall.begin(fraction))


def move(fraction: float) -> None:
    """The bar at hand has come to this fraction."""
    _tell(lambda overall: overall.move(fraction))


def end() -> None:
    """The bar at hand is about to be closed."""
    _tell(lambda overall: overall.end())


def _tell(what: Callable[[Overall], None]) -> None:
    for overall in _watched:
        try:
            what(overall)
        except Exception:  # a display fails no training
            _watched.clear()
