"""The table of the report's pictures: another one is a row here and its function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from pipeline.comparison.plots.by_cost import by_cache_bytes, by_stored_bytes
from pipeline.comparison.plots.by_length import by_length
from pipeline.comparison.plots.by_setting import by_learning_rate, by_train_size
from pipeline.comparison.plots.loss_curves import loss_curves
from pipeline.comparison.plots.style import Chart
from pipeline.comparison.plots.subject import Subject
from pipeline.config import Params
from pipeline.metrics.metric import OfTeacher
from pipeline.metrics.table import METRICS, names_of

Shown = tuple[str, str]
"""A split, and a metric on it."""


@dataclass(frozen=True)
class Picture:
    """A file of the plots folder, and what it shows."""

    file: str
    title: str
    is_wide: bool
    """Whether it has several panels, which half a page's width would make too small."""
    split: str
    metric: str
    draw: Callable[[Subject], Chart]


@dataclass(frozen=True)
class Plot:
    """A kind of picture: one file for each split and metric that `shows` names.

    `file` and `title` may hold `{split}`, and `{metric}`, which is the metric's name in the one
    and its title in the other.
    """

    file: str
    title: str
    draw: Callable[[Subject], Chart]
    shows: Callable[[Params], list[Shown]]
    is_wide: bool = False

    def pictures(self, params: Params) -> Iterator[Picture]:
        """One for each split and metric."""
        for split, metric in self.shows(params):
            file = self.file.format(split=split, metric=metric)
            title = self.title.format(split=split, metric=METRICS[metric].title)
            yield Picture(file, title, self.is_wide, split, metric, self.draw)


def sorted_by(params: Params) -> list[Shown]:
    """The metric that tables are sorted by, on every reported split."""
    return [(split, params.report.sort_by) for split in params.evaluate.splits]


def sorted_by_first(params: Params) -> list[Shown]:
    """As `sorted_by`, the split that verdicts are of first."""
    return sorted(sorted_by(params), key=lambda shown: shown[0] != params.report.split)


def with_train_sizes(params: Params) -> list[Shown]:
    """As `sorted_by`, where the sweep has training sizes."""
    return sorted_by(params) if params.sweep.train_sizes else []


def with_learning_rates(params: Params) -> list[Shown]:
    """As `sorted_by`, where the sweep has further learning rates."""
    return sorted_by(params) if params.sweep.learning_rates else []


def of_a_corpus(params: Params) -> list[Shown]:
    """As `sorted_by`, where a prefix stands for a text: of self-study, or that a teacher read.

    And the distance from that teacher, where it is measured.
    """
    is_taught = params.train.objective.distilled > 0 or params.evaluate.taught is not None
    if params.data.source != "corpus" and not is_taught:
        return []
    of_teacher = [] if params.evaluate.taught is None else names_of(OfTeacher)
    distances = [(split, name) for name in of_teacher for split in params.evaluate.splits]
    return list(dict.fromkeys([*sorted_by(params), *distances]))


def once(params: Params) -> list[Shown]:
    """One picture of the whole sweep."""
    return [(params.report.split, params.report.sort_by)]


def all_others(params: Params) -> list[Shown]:
    """Every metric but the one that tables are sorted by, on every split."""
    others = [metric for metric in params.metrics if metric != params.report.sort_by]
    return [(split, metric) for metric in others for split in params.evaluate.splits]


PLOTS: tuple[Plot, ...] = (
    Plot(
        file="{split}_{metric}.png",
        title="{split}: {metric} against prefix length",
        draw=by_length,
        shows=sorted_by_first,
    ),
    Plot(
        file="{split}_{metric}_by_stored_bytes.png",
        title="{split}: {metric} against stored bytes",
        draw=by_stored_bytes,
        shows=sorted_by,
    ),
    Plot(
        file="{split}_{metric}_by_cache_bytes.png",
        title="{split}: {metric} against cache bytes",
        draw=by_cache_bytes,
        shows=of_a_corpus,
    ),
    Plot(
        file="{split}_{metric}_by_train_size.png",
        title="{split}: {metric} against training examples",
        draw=by_train_size,
        shows=with_train_sizes,
        is_wide=True,
    ),
    Plot(
        file="{split}_{metric}_by_learning_rate.png",
        title="{split}: {metric} against learning rate",
        draw=by_learning_rate,
        shows=with_learning_rates,
        is_wide=True,
    ),
    Plot(
        file="loss_curves.png",
        title="training loss",
        draw=loss_curves,
        shows=once,
        is_wide=True,
    ),
    Plot(
        file="{split}_{metric}.png",
        title="{split}: {metric} against prefix length",
        draw=by_length,
        shows=all_others,
    ),
)
"""In the order of the page."""


def pictures(params: Params) -> list[Picture]:
    """Every picture of a report."""
    return [picture for plot in PLOTS for picture in plot.pictures(params)]


def pictures_of_page(params: Params) -> list[Picture]:
    """Without those of a metric that restates another, unless tables are sorted by it."""
    return [
        picture
        for picture in pictures(params)
        if picture.metric == params.report.sort_by or METRICS[picture.metric].restates is None
    ]


def draw(
    params: Params, table: pd.DataFrame, seeds: pd.DataFrame, curves: pd.DataFrame
) -> dict[str, Chart]:
    """Every picture of a summary table, of its settings and their loss curves: file to chart.

    The same tables give the same charts.
    """
    charts = {}
    for picture in pictures(params):
        metric = METRICS[picture.metric]
        subject = Subject(table, seeds, curves, picture.split, metric)
        charts[picture.file] = picture.draw(subject)
    return charts
