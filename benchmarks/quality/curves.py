"""The losses of trainings as curves over their passes, in training and on validation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.quality.plot import label_of, picture
from benchmarks.quality.results import Line, line_of
from benchmarks.quality.study import Curves
from benchmarks.quality.trials import Trial
from pipeline.comparison.plots.style import number

_TRAINING, _VALIDATION = "training loss", "validation loss"
_PASSES = "passes over the examples"

_Point = tuple[str, str, float]
"""A panel, a series and a number of passes."""


def draw_curves(
    curves: Curves, question: str, trials: Sequence[Trial], lines: Sequence[Line], path: Path
) -> bool:
    """Write a picture of the trainings that `curves` names, seeds averaged; say if there is one.

    A panel has each step's loss on the examples it trains on, a mean over each pass, so that every
    point is of all examples; another the loss on validation, wherever it was measured but before
    the first step, whose loss would hide the differences between the others.
    """
    found: dict[_Point, list[float]] = {}
    for trial in trials:
        line = line_of(trial.identity, lines)
        if line is not None and all(trial.value(k) == v for k, v in curves.of.items()):
            label = label_of([(key, trial.value(key)) for key in curves.series])
            for panel, passes, loss in _losses(trial, line):
                found.setdefault((panel, label, passes), []).append(loss)
    rows = [_row(point, losses) for point, losses in found.items()]
    if rows:
        ticks = range(1 + int(max(row["x"] for row in rows)))
        picture(path, question, rows, [_TRAINING, _VALIDATION], _PASSES, ticks=list(ticks))
    return bool(rows)


def _losses(trial: Trial, line: Line) -> Iterator[tuple[str, float, float]]:
    """Panel, passes and loss; of training a mean over each pass."""
    epochs = trial.training.epochs
    assert epochs is not None  # a study shows curves of whole passes
    each = line["steps"] / epochs
    for done in range(1, int(epochs) + 1):
        yield _TRAINING, done, mean(line["train"][round((done - 1) * each) : round(done * each)])
    for step, loss in line["validation"][1:]:
        yield _VALIDATION, step / each, loss


def _row(point: _Point, losses: Sequence[float]) -> dict[str, Any]:
    panel, label, passes = point
    y = number(mean(losses))
    return {"series": label, "panel": panel, "x": number(passes), "y": y, "low": y, "high": y}
