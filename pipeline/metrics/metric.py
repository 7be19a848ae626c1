"""What a row of the table of metrics says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]
"""A line of predictions.jsonl."""

Entry = float | Sequence[float]
"""What such a line holds of a metric: a number, or statistics that are summed."""


@dataclass(frozen=True)
class Form:
    """How scores are written: times `factor`, to `digits` decimals, with `sign` behind."""

    digits: int
    factor: int = 1
    sign: str = ""
    points: str = ""
    """What differences are counted in, where that is not the metric's own unit."""


NUMBER = Form(digits=3)
PERCENT = Form(digits=1, factor=100, sign="%", points="percentage points")
OF_100 = Form(digits=1, points="points")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric over the lines of predictions.jsonl; its class says what it is of.

    `score` maps the lines' statistics, summed over a set of lines (`[..., k]`), to that set's
    scores `[...]`, of which none is below 0 or above `highest` (None: without end). `title` heads a
    column of a table; `label` and `unit` stand at an axis.
    `restates` names a metric that ranks everything alike: only one of the two has a column.
    """

    name: str
    title: str
    label: str
    unit: str = ""
    form: Form
    higher_is_better: bool
    score: "Callable[[np.ndarray], np.ndarray]"
    highest: float | None = None
    restates: str | None = None

    @property
    def axis(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def number(self, value: float) -> str:
        """A score as tables show it within brackets."""
        return f"{self.form.factor * value:.{self.form.digits}f}"

    def shown(self, value: float) -> str:
        """A score as tables show it."""
        return self.number(value) + self.form.sign

    def difference(self, value: float) -> str:
        """The difference between two scores, with what it is counted in."""
        return f"{self.number(value)} {self.form.points or self.unit}".rstrip()

    def statistics(self, row: Row) -> Sequence[float]:
        """A line's numbers, always as many. Raises KeyError for what the line lacks."""
        raise NotImplementedError

    def matrix(self, rows: Sequence[Row]) -> "np.ndarray":
        """The statistics of lines, `[lines, k]` float64."""
        import numpy as np

        return np.array([self.statistics(row) for row in rows], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class OfTarget(Metric):
    """Of the likelihood of the target: measured in any case, as it needs no generated text."""

    def statistics(self, row: Row) -> Sequence[float]:
        """The target's nats, and how many tokens they are of."""
        return (row["loss"], row["target_tokens"])


@dataclass(frozen=True, kw_only=True)
class OfTeacher(Metric):
    """Of the distance from a teacher's predictions: measured where `evaluate.teacher` names one."""

    def statistics(self, row: Row) -> Sequence[float]:
        """Nats at the target's tokens, and how many of them the teacher has predictions of."""
        return (row[self.name], row["taught_tokens"])


@dataclass(frozen=True, kw_only=True)
class _PerExample(Metric):
    """A metric that has an entry of its own in a line: a number, or statistics to sum."""

    kept: Literal["number", "statistics"] = "number"
    weight: ClassVar[str | None] = None
    """The entry that says how many things a number is the mean over; None for one."""

    @property
    def key(self) -> str:
        """The name of that entry; what ends in `_statistics` is nothing for readers."""
        return self.name if self.kept == "number" else f"{self.name}_statistics"

    def statistics(self, row: Row) -> Sequence[float]:
        """The statistics as they are kept, or the number's sum and count."""
        kept: Any = row[self.key]
        if self.kept == "statistics":
            return tuple(kept)
        count = 1.0 if self.weight is None else row[self.weight]
        return (kept * count, count)


@dataclass(frozen=True, kw_only=True)
class OfText(_PerExample):
    """Of the generated text; `evaluate.metrics` chooses from these.

    `keep` maps a text and its references to what is kept. Several references count as the metric
    has it: the best of them, or for BLEU n-grams of any of them and the closest length.
    """

    keep: Callable[[str, Sequence[str]], Entry]


@dataclass(frozen=True, kw_only=True)
class OfLabels(_PerExample):
    """Of the labels that a classifier chooses, of which a word may be one (`token_cls`).

    `keep` maps the ids given and chosen, and the number of kinds of label, to what is kept.
    """

    weight: ClassVar[str | None] = "target_tokens"
    keep: Callable[[Sequence[int], Sequence[int], int], Entry]
