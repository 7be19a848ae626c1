"""What is kept of each example that is measured, the scores of a split, and those DVC shows."""

from collections.abc import Mapping, Sequence
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
    measured = {}
    for name in (*names_of(OfTarget), *names):
        metric = METRICS[name]
        measured[name] = float(metric.score(metric.matrix(rows).sum(axis=0)))
    return measured


def for_dvc(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics show` prints of a `metrics.json`: a row that fits a terminal.

    The context's tokens and, under the split's name, the metrics of the first split that is not
    for choosing (validation only where there is no other), without those that restate another.
    """
    splits = [key for key, value in metrics.items() if isinstance(value, Mapping)]
    split = next((name for name in splits if name != "validation"), splits[0])
    shown = {
        name: score for name, score in metrics[split].items() if METRICS[name].restates is None
    }
    return {"context_tokens": metrics["context_tokens"], split: shown}
