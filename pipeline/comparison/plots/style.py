"""What all pictures have in common: colours, shapes, scales and fonts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart

# Okabe and Ito's palette, told apart with every common colour blindness; shapes help in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
BASELINE_COLOUR = "#555555"

# Another kind of line for each round through the colours.
_DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
# Of baselines, whose patterns have to differ at a glance.
_BASELINE_DASHES = ((2, 3), (7, 4), (8, 3, 2, 3), (12, 3), (8, 2, 1, 2, 1, 2), (1, 6))

HIDDEN = "hidden"
"""The parameter of a chart that lists the series a reader has turned off; of a still one none."""

WIDTH, HEIGHT = 520, 300
"""Of a picture with one panel, in pixels at 72 dots per inch; a page makes it as wide as it has."""

_FIGURES = 6


@dataclass(frozen=True)
class Series:
    """Points that belong together, and how they are told apart from others."""

    label: str
    colour: str
    dash: tuple[int, ...]
    shape: str


def series_label(kind: str, family: str) -> str:
    """What a legend calls the rows of a kind (variant or baseline) and an initialisation."""
    return family if kind == "variant" else f"{family} (baseline)"


def series_of(table: pd.DataFrame, has_place: "pd.Series[bool] | None" = None) -> list[Series]:
    """The series of a summary table, variants first; the same families always look alike.

    `has_place` says of each row whether it is a point of the picture. A baseline without one is a
    level line without marks.
    """
    variants = sorted(set(table.loc[table["kind"] == "variant", "initialization"]))
    baselines = sorted(set(table.loc[table["kind"] == "baseline", "initialization"]))
    shown = [series(index, name) for index, name in enumerate(variants)]
    for index, name in enumerate(baselines):
        own = (table["kind"] == "baseline") & (table["initialization"] == name)
        is_drawn = has_place is not None and bool(has_place[own].any())
        shape = SHAPES[-1 - index % len(SHAPES)] if is_drawn else "stroke"
        dash = _BASELINE_DASHES[index % len(_BASELINE_DASHES)]
        shown.append(Series(series_label("baseline", name), BASELINE_COLOUR, dash, shape))
    return shown


def series(index: int, label: str, colour: str | None = None) -> Series:
    """The look of the `index`-th series that is no baseline."""
    return Series(
        label,
        colour or COLOURS[index % len(COLOURS)],
        _DASHES[index // len(COLOURS) % len(_DASHES)],
        SHAPES[index % len(SHAPES)],
    )


def look(shown: Sequence[Series], title: str | None = None) -> dict[str, Any]:
    """The channels color, strokeDash and shape of the field `series`, with one legend for all."""
    names = [one.label for one in shown]

    def scale(values: Iterable[Any]) -> alt.Scale:
        return alt.Scale(domain=names, range=list(values))

    channel: dict[str, Any] = {"field": "series", "type": "nominal", "title": title, "sort": None}
    return {
        "color": alt.Color(**channel, scale=scale(one.colour for one in shown)),
        "strokeDash": alt.StrokeDash(**channel, scale=scale(list(one.dash) for one in shown)),
        "shape": alt.Shape(**channel, scale=scale(one.shape for one in shown)),
    }


def number(value: float) -> float | None:
    """A number as charts keep it: six figures, and nothing for what is no number."""
    value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.{_FIGURES}g}")


def finished(chart: Chart, title: str, shown: Sequence[Series], **facts: Any) -> Chart:
    """A chart with its title, fonts, and what a page needs for a legend that turns series off.

    The chart's rows have a field `series`. `facts` join what the page reads: `is_positive`, whether
    the vertical axis may be logarithmic.
    """
    chart = chart.transform_filter(f"indexof({HIDDEN}, datum.series) < 0")
    given: Any = [] if chart.params is alt.Undefined else chart.params
    chart.params = [*given, alt.param(name=HIDDEN, value=[]).param]
    legend = [
        {"label": one.label, "colour": one.colour, "dash": list(one.dash), "shape": one.shape}
        for one in shown
    ]
    chart.usermeta = {"legend": legend, **facts}
    return styled(chart, title)


def styled(chart: Chart, title: str) -> Chart:
    """A chart with its title and the fonts and margins of all; no text is ever cut off."""
    chart.title = title
    return chart.configure(
        font="DejaVu Sans, Verdana, sans-serif",
        background="#ffffff",
        padding=8,
        axis=alt.AxisConfig(
            labelLimit=0, titleLimit=0, labelFontSize=11, titleFontSize=12,
            titleFontWeight="normal", gridColor="#e6e6e6", domainColor="#888888",
            tickColor="#888888", labelOverlap="greedy", labelSeparation=4,
        ),
        # A name at the end of an axis would else stand out of the picture.
        axisX=alt.AxisConfig(labelBound=6),
        legend=alt.LegendConfig(
            labelLimit=0, titleLimit=0, symbolLimit=0, labelFontSize=11, symbolOpacity=1,
            symbolStrokeWidth=2,
        ),
        header=alt.HeaderConfig(labelLimit=0, labelFontSize=12, titleLimit=0),
        title=alt.TitleConfig(limit=0, fontSize=13, fontWeight="normal", anchor="start"),
        view=alt.ViewConfig(stroke="#cccccc"),
    )  # fmt: skip
