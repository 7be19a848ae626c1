"""The low-data curve (Li and Liang 2021, figure 3): quality against training examples."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.comparison.plots.style import (
    BASELINE_COLOUR,
    baseline_style,
    colour,
    line_style,
    marker,
    new_panels,
)
from pipeline.comparison.plots.subject import Subject


def by_train_size(subject: Subject) -> Figure:
    """A panel for each prefix length, a line for each initialisation, bands over seeds.

    Trained baselines are lines in every panel, the others horizontal lines.
    """
    table, column = subject.table, subject.column
    variants = table[(table["kind"] == "variant") & table["train_size"].notna()]
    lengths = sorted(variants["length"].unique())
    figure, panels = new_panels(len(lengths))
    for axes, length in zip(panels, lengths, strict=True):
        for index, (name, group) in enumerate(variants.groupby("initialization", sort=True)):
            style = {"color": colour(index), "marker": marker(index), "ls": line_style(index)}
            _line(axes, group[group["length"] == length], column, str(name), style)
        _baselines(axes, table[table["kind"] == "baseline"], column, length)
        axes.set_xscale("log")
        sizes = sorted(variants["train_size"].unique())
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_title(f"{length} virtual tokens", fontsize="medium")
        axes.grid(alpha=0.3)
        if subject.metric.higher_is_better:
            axes.set_ylim(bottom=0)
    figure.supxlabel("training examples", fontsize="medium")
    figure.supylabel(subject.metric.axis, fontsize="medium")
    figure.suptitle(subject.against("training examples"))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="outside right upper")
    return figure


def _baselines(axes: Axes, baselines: pd.DataFrame, column: str, length: int) -> None:
    for index, (name, group) in enumerate(baselines.groupby("initialization", sort=True)):
        style: dict[str, Any] = {"color": BASELINE_COLOUR, "ls": baseline_style(index)}
        label = f"{name} (baseline)"
        if group["train_size"].notna().any():
            _line(axes, group, column, label, {**style, "marker": marker(index), "mfc": "white"})
            continue
        # Of a text in the context the line is that of the panel's length.
        same = group[group["length"] == length]
        rows = same if len(group) > 1 and len(same) else group
        axes.axhline(rows[column].mean(), label=label, **style)


def _line(axes: Axes, group: pd.DataFrame, column: str, label: str, style: dict[str, Any]) -> None:
    if group.empty:
        return
    by_size = group.groupby("train_size")[column].agg(["mean", "min", "max"])
    sizes = by_size.index.astype(int)
    axes.plot(sizes, by_size["mean"], label=label, **style)
    axes.fill_between(sizes, by_size["min"], by_size["max"], color=style["color"], alpha=0.2, lw=0)
