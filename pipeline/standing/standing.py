"""Where the sweep stands: what is trained and measured of it, and about how long the rest takes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from pipeline.config import Params
from pipeline.standing.durations import durations
from pipeline.standing.last_runs import LastRuns
from pipeline.standing.steps import Alike, Kind, Step, all_steps

_TOLD_FROM = 0.1
"""The fraction of a stage after which its own pace tells how long it takes."""


@dataclass(frozen=True)
class Standing:
    """The steps that are done, and those that wait, while `current` is at work."""

    current: Step
    done: Sequence[Step]
    waiting: Sequence[Step]
    seconds: dict[Step, float]

    @classmethod
    def at(cls, params: Params, stage: str) -> Self | None:
        """The standing while DVC runs this stage.

        None for a stage that is no variant's or baseline's, and for one that was up to date
        (`--force`): what else will run again is then not to be known.
        """
        steps = all_steps(params)
        current = next((step for step in steps if step.stage == stage), None)
        last = LastRuns.read()
        if current is None or last.is_up_to_date(stage):
            return None
        done = [step for step in steps if last.is_up_to_date(step.stage)]
        waiting = [s for s in steps if s != current and not last.is_up_to_date(s.stage)]
        return cls(current, done, waiting, durations(params, steps))

    @property
    def steps(self) -> int:
        """All of the sweep."""
        return len(self.done) + 1 + len(self.waiting)

    def sentence(self, fraction: float = 0.0, elapsed: float = 0.0) -> str:
        """Counts of what is done, and the time left as far as anything tells it.

        `fraction` is that of the current stage which is behind, `elapsed` the seconds it took.
        """
        counts = []
        for kind, word in ((Kind.TRAINING, "trained"), (Kind.MEASUREMENT, "measured")):
            here = [step for step in (*self.done, self.current, *self.waiting) if step.kind is kind]
            if here:
                finished = sum(step.kind is kind for step in self.done)
                counts.append(f"{finished} of {len(here)} {word}")
        return ", ".join([*counts, *self._left(fraction, elapsed)])

    def _left(self, fraction: float, elapsed: float) -> list[str]:
        """At most one phrase; of one kind alone where nothing tells how long the other takes."""
        pace = elapsed / fraction if fraction >= _TOLD_FROM else None
        current = pace or self._mean(self.current.kind, self.current.alike, None)
        left = {self.current.kind: _times(current, 1 - fraction)}
        for (kind, alike, measured), count in self._waiting.items():
            seconds = measured or self._mean(kind, alike, pace)
            left[kind] = left.get(kind, 0.0) + _times(seconds, count)
        told = {kind: seconds for kind, seconds in left.items() if seconds == seconds}
        if not told:
            return []
        phrase = f"about {_shown(sum(told.values()))}"
        if len(told) == len(left):
            return [f"{phrase} left"]
        return [f"{phrase} of {'training' if Kind.TRAINING in told else 'measuring'} left"]

    @cached_property
    def _waiting(self) -> Counter[tuple[Kind, Alike, float | None]]:
        """How many wait that are alike and took as long, where they are known to have run."""
        return Counter((step.kind, step.alike, self.seconds.get(step)) for step in self.waiting)

    @cached_property
    def _measured(self) -> dict[tuple[Kind, int, object], tuple[float, int]]:
        """Of each likeness of other steps than the one at hand their seconds, and their number."""
        sums: dict[tuple[Kind, int, object], tuple[float, int]] = {}
        for step, seconds in self.seconds.items():
            for level, likeness in enumerate(step.alike if step != self.current else ()):
                total, count = sums.get((step.kind, level, likeness), (0.0, 0))
                sums[step.kind, level, likeness] = (total + seconds, count + 1)
        return sums

    def _mean(self, kind: Kind, alike: Alike, pace: float | None) -> float | None:
        """Of the measured steps that are most like it, the one at hand by its pace among them.

        None without any of its kind.
        """
        for level, likeness in enumerate(alike):
            total, count = self._measured.get((kind, level, likeness), (0.0, 0))
            own = kind is self.current.kind and likeness == self.current.alike[level]
            if pace is not None and own:
                total, count = total + pace, count + 1
            if count:
                return total / count
        return None


def _times(seconds: float | None, count: float) -> float:
    return float("nan") if seconds is None else seconds * count


def _shown(seconds: float) -> str:
    """`40 s`, `9 min`, `2 h 5 min`: no more exact than it is known."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
