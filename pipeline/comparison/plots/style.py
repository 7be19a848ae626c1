"""What all pictures have in common: colours, figures, and files that are the same on every run."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour blindness; markers help in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASELINE_COLOUR = "#555555"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def line_style(index: int) -> str:
    """Another kind of line for each round through the colours."""
    return ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def baseline_style(index: int) -> str:
    """Lines for six baselines whose patterns differ at a glance."""
    styles = (":", "--", "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (12, 3)), (0, (1, 5)))
    return styles[index % len(styles)]  # type: ignore[return-value]


def new_figure(width: float = 7.6, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure of its own, not one of pyplot's, which would be kept until it is closed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def new_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Panels with shared scales, row by row; those left over in the last row are not drawn."""
    columns = 2 if count == 4 else min(3, count)
    rows = -(-count // columns)
    size = (max(7.6, 3.6 * columns), 0.8 + 3.2 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return figure, panels[:count]


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture without date or version in it: the same table gives the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
