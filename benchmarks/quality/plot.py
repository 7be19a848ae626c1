"""The results of a study as curves, in the style of the report's pictures."""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from benchmarks.quality.table import heading
from benchmarks.quality.trials import Plot
from pipeline.comparison.plots.panels import in_panels
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.style import Series, finished, look, number, series

_PANELS = ("test loss", "unseen loss", "test BLEU", "unseen BLEU")
_DPI = 120


def draw(plot: Plot, question: str, table: pd.DataFrame, path: Path) -> None:
    """Write a picture with a panel for each measurement, and a curve for each series."""
    x = heading(plot.x)
    # A setting without it has no place.
    table = table[table[x].notna()]
    labels = table.apply(lambda row: _label(row, plot), axis=1)
    shown = [series(place, label) for place, label in enumerate(dict.fromkeys(labels))]
    panels = [name for name in _PANELS if name in table]
    rows = [
        row
        for name in panels
        for label, setting in zip(labels, table.to_dict("records"), strict=True)
        if (row := _row(label, name, setting, x))["y"] is not None
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save(_chart(plot, question, rows, panels, shown), path, _DPI)


def _label(row: "pd.Series[Any]", plot: Plot) -> str:
    parts = [(name, row[name]) for name in map(heading, plot.series)]
    known = [(name, part) for name, part in parts if part is not None and part == part]
    return ", ".join(
        str(part) if isinstance(part, str) else f"{name} {part:g}" for name, part in known
    )


def _row(label: str, name: str, setting: dict[Any, Any], x: str) -> dict[str, Any]:
    deviation = setting[f"{name} ±"]
    spread = 0.0 if deviation != deviation else deviation
    value = setting[name]
    return {
        "series": label,
        "panel": name,
        "x": number(setting[x]),
        "y": number(value),
        "low": number(value - spread),
        "high": number(value + spread),
    }


def _chart(
    plot: Plot, question: str, rows: list[dict[str, Any]], panels: list[str], shown: list[Series]
) -> Any:
    ticks = sorted({row["x"] for row in rows})
    scale = alt.Scale(type="log" if plot.logarithmic else "linear", nice=False, padding=12)
    x = alt.X("x:Q", title=plot.title, scale=scale, axis=alt.Axis(values=ticks, format="~g"))
    colours = look(shown)
    base = alt.Chart()
    lines = {name: colours[name] for name in ("color", "strokeDash")}
    points = {name: colours[name] for name in ("color", "shape")}
    layers = [
        base.mark_line(strokeWidth=1.8).encode(x=x, y=_y("y"), **lines),
        base.mark_rule(strokeWidth=1.4).encode(
            x=x, y=_y("low"), y2="high:Q", color=colours["color"]
        ),
        base.mark_point(size=64, filled=True, opacity=1).encode(x=x, y=_y("y"), **points),
    ]
    chart = in_panels(layers, rows, panels).resolve_scale(y="independent")
    return finished(chart, question, shown)


def _y(field: str) -> alt.Y:
    return alt.Y(field, type="quantitative", title=None, scale=alt.Scale(zero=False))
