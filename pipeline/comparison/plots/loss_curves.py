"""Training loss over optimizer steps, readable for any number of variants."""

import altair as alt
import pandas as pd

from pipeline.comparison.plots.layers import is_flat, zoomable
from pipeline.comparison.plots.panels import heading, in_panels
from pipeline.comparison.plots.style import Chart, Series, finished, look, number, series
from pipeline.comparison.plots.subject import Row, Subject

POINTS = 4000
"""All that a picture keeps of the curves; each has its share, evenly over its steps."""


def loss_curves(subject: Subject) -> Chart:
    """A panel for each initialisation, a line for each length, bands over seeds."""
    curves = subject.curves
    lengths = sorted({int(length) for length in curves["length"]})
    shown = [_shade(place, length, len(lengths)) for place, length in enumerate(lengths)]
    names = sorted(set(curves["initialization"]))
    rows = curve_rows(curves)
    x = alt.X(
        "step:Q",
        title="optimizer step",
        scale=alt.Scale(nice=False, zero=False),
        axis=alt.Axis(tickMinStep=1),
    )
    colours = look(shown, "prefix length")
    base = alt.Chart()
    line = {"color": colours["color"], "strokeDash": colours["strokeDash"]}
    tips = [
        alt.Tooltip("name:N", title="variants"),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("score:N", title="loss"),
    ]
    # Where a pointer finds the values: nothing to see, unless a curve is of one step, thus no line.
    alone = len(rows) == len({(row["panel"], row["series"]) for row in rows})
    pointed = base.mark_point(size=90, filled=True, opacity=float(alone), aria=False)
    flat = is_flat(rows)
    layers = [
        base.mark_line(strokeWidth=1.6).encode(x=x, y=_y("y", flat), **line),
        zoomable(pointed.encode(x=x, y=_y("y", flat), color=colours["color"], tooltip=tips)),
    ]
    if any("low" in row for row in rows):
        band = base.mark_area(opacity=0.18)
        layers.insert(0, band.encode(x=x, y=_y("low", flat), y2="high:Q", color=colours["color"]))
    chart = in_panels(layers, rows, [heading(name) for name in names])
    title = "Training loss by initialisation (running mean of 10 steps)"
    positive = all(row["y"] is None or row["y"] > 0 for row in rows)
    return finished(chart, title, shown, is_positive=positive)


def curve_rows(curves: pd.DataFrame, points: int = POINTS) -> list[Row]:
    """Each initialisation and length at steps spread evenly, the first and last among them.

    Of several seeds the mean, the lowest and the highest; `points` bounds the rows of all.
    """
    keys = ["initialization", "length"]
    groups = curves.groupby(keys, sort=True)
    most = max(20, points // max(1, groups.ngroups))
    rows: list[Row] = []
    for (name, length), group in groups:
        by_step = group.groupby("step")["loss"].agg(["mean", "min", "max", "count"]).reset_index()
        last = len(by_step) - 1
        count = min(most, len(by_step))
        chosen = sorted({round(place * last / max(1, count - 1)) for place in range(count)})
        seeds = group["seed"].nunique()
        for step in by_step.iloc[chosen].to_dict("records"):
            row: Row = {
                "series": str(length),
                "panel": heading(str(name)),
                "name": f"len{length}-{name}",
                "step": int(step["step"]),
                "y": number(step["mean"]),
                "score": f"{step['mean']:.3f}",
            }
            if seeds > 1:
                row |= {"low": number(step["min"]), "high": number(step["max"])}
                row["score"] += f" (seeds {step['min']:.3f} to {step['max']:.3f})"
            rows.append(row)
    return rows


def _y(field: str, from_zero: bool) -> alt.Y:
    return alt.Y(
        field,
        type="quantitative",
        title="loss (nats per target token)",
        scale=alt.Scale(type="linear", zero=from_zero),
        axis=alt.Axis(tickCount=6),
    )


# Of viridis, which grows lighter evenly; short of its end, a yellow that is lost on white.
_SHADES = ((0x44, 0x01, 0x54), (0x3B, 0x52, 0x8B), (0x21, 0x91, 0x8C), (0x5E, 0xC9, 0x62))


def _shade(place: int, length: int, count: int) -> Series:
    """From dark for the shortest to light for the longest."""
    along = place / max(1, count - 1) * (len(_SHADES) - 1)
    below = min(int(along), len(_SHADES) - 2)
    pairs = zip(_SHADES[below], _SHADES[below + 1], strict=True)
    parts = [round(a + (b - a) * (along - below)) for a, b in pairs]
    return series(0, str(length), "#" + "".join(f"{part:02x}" for part in parts))
