"""How far a sweep is: one bar for the whole of it, and each failure as it happens."""

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Self

from pipeline.orchestration.outcome import Outcome
from pipeline.progress.bar import Bar, tell


class Shown:
    """The bar of a sweep over `stages`, run by `workers` at once; used in a `with`."""

    def __init__(self, stages: Iterable[str], workers: int) -> None:
        self._waiting = dict.fromkeys(stages)
        self._workers = workers
        self._bar = Bar(len(self._waiting), "sweep", "stage")
        self._told = 0
        self._failures = 0
        self._began: dict[str, float] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.__exit__(*details)

    def __call__(self, outcome: Outcome, running: list[str]) -> None:
        """Show what became of stages so far, and those at work."""
        now = time.monotonic()
        for name in self._began.keys() - set(running):
            self._seconds[_kind(name)].append(now - self._began.pop(name))
        for name in running:
            self._began.setdefault(name, now)
        behind = (outcome.unchanged, outcome.restored, outcome.ran)
        for names in (*behind, outcome.failed, outcome.skipped):
            for name in names:
                self._waiting.pop(name, None)
        for name, sentence in list(outcome.failed.items())[self._failures :]:
            tell(f"failed: {name}: {sentence}")
        self._failures = len(outcome.failed)
        self._bar.update(outcome.ended - self._told, note=self._note(running, now))
        self._told = outcome.ended

    def _note(self, running: list[str], now: float) -> str:
        said = [f"{len(running)} at work"]
        if self._failures:
            said.append(f"{self._failures} failed")
        left = sum(self._mean(name) for name in self._waiting)
        left -= sum(min(now - began, self._mean(name)) for name, began in self._began.items())
        if any(self._seconds.values()) and self._waiting:
            said.append(f"about {_duration(left / self._workers)} left")
        return ", ".join(said)

    def _mean(self, name: str) -> float:
        """The seconds of stages of its kind; none of a kind that has not run yet."""
        known = self._seconds.get(_kind(name), [])
        return sum(known) / len(known) if known else 0.0


def _kind(name: str) -> str:
    return name.partition("@")[0]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
