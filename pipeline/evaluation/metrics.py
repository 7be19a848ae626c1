"""What is kept of each example that is measured, and the scores of a split."""

from collections.abc import Sequence
from typing import Any

from pipeline.metrics.metric import OfLabels, OfTarget, OfText, Row
from pipeline.metrics.table import METRICS, names_of


def kept_of(prediction: str, references: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What a line of predictions.jsonl holds of the named metrics of generated text."""
    kept: dict[str, Any] = {}
    for name in names:
        metric = METRICS[name]
        assert isinstance(metric, OfText), f"{name} is not of text"
        kept[metric.key] = metric.keep(prediction, references)
    return kept


def kept_of_labels(given: Sequence[int], chosen: Sequence[int], labels: int) -> dict[str, Any]:
    """What a line of predictions.jsonl holds of a classifier's metrics.

    `given` and `chosen` are the ids of an example's labels, of which there are `labels` kinds.
    """
    return {
        metric.key: metric.keep(given, chosen, labels)
        for metric in METRICS.values()
        if isinstance(metric, OfLabels)
    }


def scores(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """The metrics over all lines: those of the target, then those named."""
    return Sums(names).add(rows).scores()


class Sums:
    """The statistics of lines that come in portions, added up."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sums: dict[str, Any] = dict.fromkeys((*names_of(OfTarget), *names), 0.0)

    def add(self, rows: Sequence[Row]) -> "Sums":
        """Add the statistics of a portion's lines."""
        for name in self._sums:
            self._sums[name] = self._sums[name] + METRICS[name].matrix(rows).sum(axis=0)
        return self

    def scores(self) -> dict[str, float]:
        """The metrics over all lines."""
        return {name: float(METRICS[name].score(sums)) for name, sums in self._sums.items()}
