"""Quality against what it costs: bytes stored beside the frozen model, or seconds of training."""

from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pipeline.comparison.plots.style import (
    BASELINE_COLOUR,
    baseline_style,
    colour,
    line_style,
    marker,
    new_figure,
)
from pipeline.comparison.plots.subject import Subject

Cost = Literal["stored_bytes", "training_seconds"]

_COSTS: dict[Cost, tuple[str, str, str]] = {
    "stored_bytes": ("stored bytes", "stored beside the frozen model (bytes)", "B"),
    "training_seconds": ("training time", "training time (seconds)", "s"),
}


def by_stored_bytes(subject: Subject) -> Figure:
    """Against what is kept beside the frozen model."""
    return _by_cost(subject, "stored_bytes")


def by_training_seconds(subject: Subject) -> Figure:
    """Against the time of training, the table's column `training_seconds`."""
    return _by_cost(subject, "training_seconds")


def _by_cost(subject: Subject, cost: Cost) -> Figure:
    """A point for each row with a cost, a line through the lengths of each initialisation.

    Seeds are one point, their mean, with a bar from the worst to the best. What costs nothing is a
    horizontal line, since a logarithmic axis has no zero.
    """
    column = subject.column
    name, label, unit = _COSTS[cost]
    figure, axes = new_figure()
    counts = {"variant": 0, "baseline": 0}
    for kind, of_kind in subject.of_whole_split.groupby("kind", sort=False):
        for family, group in of_kind.groupby("initialization", sort=True):
            index = counts[str(kind)]
            counts[str(kind)] += 1
            baseline = kind == "baseline"
            line = baseline_style(index) if baseline else line_style(index)
            style: dict[str, Any] = {
                "color": BASELINE_COLOUR if baseline else colour(index),
                "label": f"{family} (baseline)" if baseline else str(family),
            }
            paid = group[group[cost] > 0]
            if paid.empty:
                if baseline:
                    axes.axhline(group[column].mean(), ls=line, **style)
                continue
            points = paid.groupby("length").agg(
                cost=(cost, "mean"),
                mean=(column, "mean"),
                low=(column, "min"),
                high=(column, "max"),
            )
            spread = [points["mean"] - points["low"], points["high"] - points["mean"]]
            axes.errorbar(
                points["cost"], points["mean"], yerr=spread, marker=marker(index), ls=line,
                capsize=3, mfc="white" if baseline else None, **style,
            )  # fmt: skip
            if not baseline:
                for length, point in points.iterrows():
                    axes.annotate(
                        str(length),
                        (point["cost"], point["mean"]),
                        xytext=(4, 4),
                        textcoords="offset points",
                        fontsize="x-small",
                        color=style["color"],
                    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit))
    if subject.metric.higher_is_better:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{label}; numbers at the points: prefix length")
    axes.set_ylabel(subject.metric.axis)
    axes.set_title(subject.against(name))
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    return figure
