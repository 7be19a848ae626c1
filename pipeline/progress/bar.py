"""How far one piece of work is."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Self, TypeVar

from tqdm import tqdm

from pipeline.progress import overall
from pipeline.progress.watching import Watching, watching

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0
"""In a log. The last state has a line of its own in any case."""


class Bar:
    """On a terminal a bar, in a log a line now and then, in CI nothing; used in a `with`.

    It starts at `initial` of `total`; `shown=False` shows nothing anywhere. Whatever is watching
    the whole (`overall`) is told as well.
    """

    def __init__(
        self, total: int, title: str, unit: str, *, initial: int = 0, shown: bool = True
    ) -> None:
        self._total, self._title, self._unit, self._n = total, title, unit, initial
        self._initial = initial
        self._shown = shown
        self._watching = watching()
        self._note = ""
        self._told_at, self._told = time.monotonic(), initial
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        if self._shown:
            if self._watching is Watching.TERMINAL:
                self._bar = tqdm(
                    total=self._total,
                    initial=self._initial,
                    desc=self._title,
                    unit=self._unit,
                    dynamic_ncols=True,
                )
            overall.begin(self._initial / max(1, self._total))
        return self

    def update(self, count: int = 1, note: str | None = None) -> None:
        """Go on by `count`; `note` is what stands behind the bar from now on."""
        self._n += count
        self._note = note if note is not None else self._note
        if not self._shown:
            return
        if self._bar is not None:
            # One drawing for both.
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
        elif self._watching is Watching.LOG and self._is_due():
            self._tell()
        overall.move(self._n / max(1, self._total))

    def __exit__(self, *_: object) -> None:
        if not self._shown:
            return
        overall.end()
        if self._bar is not None:
            self._bar.close()
        elif self._watching is Watching.LOG and self._told != self._n:
            self._tell()

    def _is_due(self) -> bool:
        return time.monotonic() - self._told_at >= SECONDS_BETWEEN_LINES

    def _tell(self) -> None:
        self._told_at, self._told = time.monotonic(), self._n
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._title}: {self._n} of {self._total} {self._unit}s{note}",
            file=sys.stderr,
            flush=True,
        )


def following(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """The items one after the other, with a bar that goes on when the next one is asked for."""
    with Bar(len(items), title, unit) as bar:
        for item in items:
            yield item
            bar.update()


def tell(sentence: str) -> None:
    """Write a line to standard error, above the bars that stand there."""
    tqdm.write(sentence, file=sys.stderr)
