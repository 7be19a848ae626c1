"""The results of a study as curves, in the style of the report's pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from benchmarks.quality.study import Plot
from benchmarks.quality.table import heading
from pipeline.comparison.plots.panels import in_panels
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.style import Series, finished, look, number, series

_PANELS = ("test loss", "unseen loss", "test BLEU", "unseen BLEU")
_DPI = 120


def draw(plot: Plot, question: str, table: pd.DataFrame, path: Path) -> None:
    """Write a picture with a panel for each measurement, and a curve for each series."""
    x = heading(plot.x)
    # A setting without it has no place.
    settings = table[table[x].notna()].to_dict("records")
    labels = [label_of([(key, own[heading(key)]) for key in plot.series]) for own in settings]
    panels = [name for name in _PANELS if name in table]
    rows = [
        row
        for name in panels
        for label, setting in zip(labels, settings, strict=True)
        if (row := _row(label, name, setting, x))["y"] is not None
    ]
    ticks = sorted({row["x"] for row in rows})
    picture(path, question, rows, panels, plot.title, ticks, plot.logarithmic)


def label_of(setting: Sequence[tuple[str, Any]]) -> str:
    """What a legend calls a series, by its keys and their values; those it lacks are left out."""
    known = [(key, part) for key, part in setting if part is not None and part == part]
    return ", ".join(
        str(part) if isinstance(part, str) else f"{heading(key)} {part:g}" for key, part in known
    )


def picture(
    path: Path,
    question: str,
    rows: Sequence[dict[str, Any]],
    panels: Sequence[str],
    title: str,
    ticks: Sequence[float],
    logarithmic: bool = False,
) -> None:
    """Write rows as curves in panels.

    Args:
        rows: each with `series`, `panel`, `x`, `y`, and where it spreads to, `low` and `high`.
        title: of the horizontal axis, which has `ticks`.
    """
    shown = [series(i, label) for i, label in enumerate(dict.fromkeys(r["series"] for r in rows))]
    scale = alt.Scale(type="log" if logarithmic else "linear", nice=False, padding=12)
    axis = alt.Axis(values=list(ticks), format="~g")
    x = alt.X("x:Q", title=title, scale=scale, axis=axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(_chart(x, question, list(rows), panels, shown), path, _DPI)


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
    x: alt.X,
    question: str,
    rows: list[dict[str, Any]],
    panels: Sequence[str],
    shown: Sequence[Series],
) -> Any:
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
