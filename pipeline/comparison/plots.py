"""The pictures of the report, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.comparison.summary import HIGHER_IS_BETTER, METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour blindness; markers help in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABELS = {
    "loss": "loss (nats per target token)",
    "perplexity": "perplexity of the target",
    "exact_match": "exact match (share of examples)",
    "token_f1": "token F1",
    "accuracy": "accuracy (share of labels)",
    "f1": "F1 (mean over labels)",
}


def draw(
    table: "pd.DataFrame", curves: "pd.DataFrame", splits: Sequence[str], folder: Path, dpi: int
) -> None:
    """Write `<split>_<metric>.png` against prefix length and `loss_curves.png` into `folder`.

    The same table gives the same bytes: the files hold no date and no version of the library.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for split in splits:
        for metric in METRICS:
            if f"{split}_{metric}" not in table:
                continue
            figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
            _against_length(axes, table, split, metric)
            _save(figure, folder / f"{split}_{metric}.png", dpi)
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    _loss_curves(axes, curves)
    _save(figure, folder / "loss_curves.png", dpi)


def _against_length(axes: "Axes", table: "pd.DataFrame", split: str, metric: str) -> None:
    column = f"{split}_{metric}"
    variants = table[table["kind"] == "variant"]
    for index, (name, group) in enumerate(variants.groupby("initialization", sort=True)):
        by_length = group.groupby("length")[column].agg(["mean", "min", "max"])
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        style = _style(index)
        axes.plot(
            by_length.index,
            by_length["mean"],
            color=colour,
            marker=marker,
            ls=style,
            label=str(name),
        )
        axes.fill_between(
            by_length.index, by_length["min"], by_length["max"], color=colour, alpha=0.2, lw=0
        )
    for index, row in enumerate(table[table["kind"] == "baseline"].to_dict("records")):
        style = (":", "--", "-.")[index % 3]
        axes.axhline(row[column], color="#555555", linestyle=style, label=str(row["name"]))
    axes.set_xscale("log", base=2)
    lengths = sorted(variants["length"].unique())
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    if metric in HIGHER_IS_BETTER:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("prefix length (virtual tokens)")
    axes.set_ylabel(_LABELS[metric])
    axes.set_title(f"{split}: {_LABELS[metric].split(' (')[0]} against prefix length")
    axes.grid(alpha=0.3)
    axes.figure.legend(fontsize="small", loc="outside right upper")


def _loss_curves(axes: "Axes", curves: "pd.DataFrame") -> None:
    for index, (name, group) in enumerate(curves.groupby("series", sort=True)):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(group["step"], group["loss"], color=colour, ls=_style(index), label=str(name))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss (nats per target token, mean of 10 steps)")
    axes.set_title("Training loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)


def _style(index: int) -> str:
    """Another kind of line for each round through the colours."""
    return ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def _save(figure: "Figure", path: Path, dpi: int) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    plt.close(figure)
