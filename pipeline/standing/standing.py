"""Where the sweep stands: what is trained and measured of it, and about how long the rest takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Self

from pipeline.config import Params
from pipeline.standing.durations import duration
from pipeline.standing.last_runs import LastRuns
from pipeline.standing.steps import Kind, Step, all_steps

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
        waiting = [step for step in steps if step not in done and step != current]
        known = {step: duration(params, step) for step in steps}
        return cls(current, done, waiting, {s: d for s, d in known.items() if d is not None})

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
        known = dict(self.seconds)
        known.pop(self.current, None)
        if fraction >= _TOLD_FROM:
            known[self.current] = elapsed / fraction
        left: dict[Kind, float] = {}
        for step in (self.current, *self.waiting):
            seconds = _expected(step, known)
            if seconds is None:
                left[step.kind] = float("nan")
                continue
            share = 1 - fraction if step == self.current else 1.0
            left[step.kind] = left.get(step.kind, 0.0) + seconds * share
        told = {kind: seconds for kind, seconds in left.items() if seconds == seconds}
        if not told:
            return []
        phrase = f"about {_shown(sum(told.values()))}"
        if len(told) == len(left):
            return [f"{phrase} left"]
        return [f"{phrase} of {'training' if Kind.TRAINING in told else 'measuring'} left"]


def _expected(step: Step, known: dict[Step, float]) -> float | None:
    """The mean of the measured steps that are most like this one; None without any of its kind."""
    if step in known:
        return known[step]
    same_kind = [other for other in known if other.kind is step.kind]
    for level, likeness in enumerate(step.alike):
        alike = [known[other] for other in same_kind if other.alike[level] == likeness]
        if alike:
            return mean(alike)
    return None


def _shown(seconds: float) -> str:
    """`40 s`, `9 min`, `2 h 5 min`: no more exact than it is known."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
