"""Training loss over optimizer steps, readable for any number of variants."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from pipeline.comparison.plots_style import new_panels, save
from pipeline.config import Params
from pipeline.storage.records import read_csv
from pipeline.sweep.variants import sweep
from pipeline.workspace import paths


def loss_curves(params: Params) -> pd.DataFrame:
    """Training loss of each variant that saw the whole training split.

    Columns initialization, length, seed, step, loss (mean of 10 steps: single batches are too
    noisy to tell variants apart).
    """
    tables = []
    for variant in sweep(params):
        if variant.train_size is not None:
            continue
        history = read_csv(paths.TRAIN / variant.name / "history.csv").iloc[1:]
        loss = history["train/loss"].rolling(10, min_periods=1).mean()
        place = {"initialization": variant.initialization, "length": variant.length}
        tables.append(
            pd.DataFrame({**place, "seed": variant.seed, "step": history["step"], "loss": loss})
        )
    return pd.concat(tables, ignore_index=True)


def mean_over_seeds(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves that DVC draws: columns series (initialisation, length), step, loss."""
    keys = ["initialization", "length", "step"]
    means = curves.groupby(keys, as_index=False)["loss"].mean()
    series = means["initialization"] + ", length " + means["length"].astype(str)
    return means.assign(series=series)[["series", "step", "loss"]]


def draw_loss_curves(curves: pd.DataFrame, path: Path, dpi: int) -> None:
    """A panel for each initialisation, a line for each length, bands over seeds."""
    lengths = sorted(curves["length"].unique())
    shades = mpl.colormaps["viridis"]
    names = sorted(curves["initialization"].unique())
    figure, panels = new_panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        group = curves[curves["initialization"] == name]
        for index, length in enumerate(lengths):
            by_step = group[group["length"] == length].groupby("step")["loss"]
            band = by_step.agg(["mean", "min", "max"])
            # Short of viridis' end, a yellow that is lost on white.
            shade = shades(0.85 * index / max(1, len(lengths) - 1))
            axes.plot(band.index, band["mean"], color=shade, label=str(length))
            axes.fill_between(band.index, band["min"], band["max"], color=shade, alpha=0.2, lw=0)
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.supxlabel("optimizer step", fontsize="medium")
    figure.supylabel("loss (nats per target token)", fontsize="medium")
    figure.suptitle("Training loss by initialisation (running mean of 10 steps)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize="small", loc="outside right upper", title="prefix length"
    )
    save(figure, path, dpi)
