"""Training loss over optimizer steps, readable for any number of variants."""

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.comparison.plots.style import new_panels
from pipeline.comparison.plots.subject import Subject


def loss_curves(subject: Subject) -> Figure:
    """A panel for each initialisation, a line for each length, bands over seeds."""
    curves = subject.curves
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
    return figure
