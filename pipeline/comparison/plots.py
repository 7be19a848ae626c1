"""The pictures of the report, drawn with matplotlib: all of them, and those against length."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pipeline.comparison.plots_by_cost import draw_by_cost
from pipeline.comparison.plots_by_train_size import draw_by_train_size
from pipeline.comparison.plots_loss_curves import draw_loss_curves
from pipeline.comparison.plots_style import (
    BASELINE_COLOUR,
    LABELS,
    baseline_style,
    colour,
    line_style,
    marker,
    new_figure,
    of_whole_split,
    save,
    title_of,
)
from pipeline.config import Params
from pipeline.evaluation.metrics import HIGHER_IS_BETTER


def draw(params: Params, table: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write every picture of a summary table and its loss curves into `folder`.

    `<split>_<metric>.png` against prefix length; `<split>_<metric>_by_stored_bytes.png` and, with
    `sweep.train_sizes`, `<split>_<metric>_by_train_size.png` of the metric sorted by;
    `loss_curves.png`. The same tables give the same bytes.
    """
    dpi, sort_by = params.report.dpi, params.report.sort_by
    for split in params.evaluate.splits:
        for metric in (metric for metric in LABELS if f"{split}_{metric}" in table):
            figure, axes = new_figure()
            _against_length(axes, of_whole_split(table), split, metric)
            save(figure, folder / f"{split}_{metric}.png", dpi)
        draw_by_cost(
            of_whole_split(table),
            cost="stored_bytes",
            split=split,
            metric=sort_by,
            path=folder / f"{split}_{sort_by}_by_stored_bytes.png",
            dpi=dpi,
        )
        if params.sweep.train_sizes:
            path = folder / f"{split}_{sort_by}_by_train_size.png"
            draw_by_train_size(table, split, sort_by, path, dpi)
    draw_loss_curves(curves, folder / "loss_curves.png", dpi)


def _against_length(axes: Axes, table: pd.DataFrame, split: str, metric: str) -> None:
    column = f"{split}_{metric}"
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
    if metric in HIGHER_IS_BETTER:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("prefix length (virtual tokens)")
    axes.set_ylabel(LABELS[metric])
    axes.set_title(f"{split}: {title_of(metric)} against prefix length")
    axes.grid(alpha=0.3)
    axes.figure.legend(fontsize="small", loc="outside right upper")
