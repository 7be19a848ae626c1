"""A metric against prefix length."""

from typing import Any

from matplotlib.figure import Figure

from pipeline.comparison.plots.style import (
    BASELINE_COLOUR,
    baseline_style,
    colour,
    line_style,
    marker,
    new_figure,
)
from pipeline.comparison.plots.subject import Subject


def by_length(subject: Subject) -> Figure:
    """A line for each initialisation, bands over seeds; baselines without a length are level."""
    figure, axes = new_figure()
    table, column = subject.of_whole_split, subject.column
    variants = table[table["kind"] == "variant"]
    for index, (name, group) in enumerate(variants.groupby("initialization", sort=True)):
        by_length = group.groupby("length")[column].agg(["mean", "min", "max"])
        drawn: dict[str, Any] = {
            "color": colour(index),
            "marker": marker(index),
            "ls": line_style(index),
        }
        axes.plot(by_length.index, by_length["mean"], label=str(name), **drawn)
        axes.fill_between(
            by_length.index,
            by_length["min"],
            by_length["max"],
            color=colour(index),
            alpha=0.2,
            lw=0,
        )
    baselines = table[table["kind"] == "baseline"]
    for index, (name, group) in enumerate(baselines.groupby("initialization", sort=True)):
        drawn = {
            "color": BASELINE_COLOUR,
            "ls": baseline_style(index),
            "label": f"{name} (baseline)",
        }
        if group["seed"].isna().all() and len(group) > 1:
            # A text in the context, which has a length as prefixes have.
            means = group.groupby("length")[column].mean()
            axes.plot(means.index, means, marker=marker(index), mfc="white", **drawn)
        else:
            axes.axhline(group[column].mean(), **drawn)
            if group[column].nunique() > 1:
                axes.axhspan(
                    group[column].min(),
                    group[column].max(),
                    color=BASELINE_COLOUR,
                    alpha=0.12,
                    lw=0,
                )
    axes.set_xscale("log", base=2)
    lengths = sorted(variants["length"].unique())
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    if subject.metric.higher_is_better:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("prefix length (virtual tokens)")
    axes.set_ylabel(subject.metric.axis)
    axes.set_title(subject.against("prefix length"))
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside right upper")
    return figure
