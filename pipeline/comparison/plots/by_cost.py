"""Quality against what it costs: bytes stored or kept in memory, or seconds of training."""

from typing import Literal

import altair as alt
import pandas as pd

from pipeline.comparison.plots.layers import is_positive, level_rows, score_axis, score_layers
from pipeline.comparison.plots.style import HEIGHT, WIDTH, Chart, finished, look, number, series_of
from pipeline.comparison.plots.subject import Row, Subject

Cost = Literal["stored_bytes", "cache_bytes", "training_seconds"]

_COSTS: dict[Cost, tuple[str, str, str]] = {
    "stored_bytes": ("stored bytes", "stored beside the frozen model", "B"),
    "cache_bytes": ("cache bytes", "keys and values before each input", "B"),
    "training_seconds": ("training time", "training time", "s"),
}


def by_stored_bytes(subject: Subject) -> Chart:
    """Against what is kept beside the frozen model."""
    return _by_cost(subject, "stored_bytes")


def by_cache_bytes(subject: Subject) -> Chart:
    """Against the keys and values that a server keeps, and every token generated reads."""
    return _by_cost(subject, "cache_bytes")


def by_training_seconds(subject: Subject) -> Chart:
    """Against the time of training, the tables' column `training_seconds`."""
    return _by_cost(subject, "training_seconds")


def _by_cost(subject: Subject, cost: Cost) -> Chart:
    """A point for each setting with a cost, a line through the lengths of each initialisation.

    What costs nothing is level if it is a baseline, since a logarithmic axis has no zero. Level is
    also what the longest text in the context gives: prefixes are to come near it for less cache.
    """
    name, label, unit = _COSTS[cost]
    settings = subject.plain
    paid = settings[cost] > 0
    shown = series_of(settings, paid)
    costs = {row["name"]: number(row[cost]) for row in settings.to_dict("records")}
    rows: list[Row] = [
        {**row, "x": costs[row["name"]], "cost": f"{costs[row['name']]:,} {unit}"}
        for row in subject.rows(settings[paid])
    ]
    untrained = (settings["kind"] == "baseline") & settings["train_size"].isna()
    level = settings[~paid & (settings["kind"] == "baseline")]
    if cost == "cache_bytes":
        level = pd.concat([level, settings[paid & untrained].nlargest(1, cost)])
    rows += level_rows(list(subject.rows(level)), rows, subject)
    axis = alt.Axis(tickCount=5, labelExpr=f"format(datum.value, '~s') + '{unit}'")
    scale = alt.Scale(type="log", nice=False, padding=24)
    x = alt.X("x:Q", title=label, scale=scale, axis=axis)
    layers = score_layers(rows, x, subject, shown, None)
    if any(row["mark"] == "point" for row in rows):
        points = alt.Chart().transform_filter(alt.datum.mark == "point")
        length = points.mark_text(align="left", dx=7, dy=-7, fontSize=10)
        colour = look(shown)["color"]
        layers.append(
            length.encode(x=x, y=score_axis(subject, rows), text="length:N", color=colour)
        )
    data = alt.InlineData(values=rows)
    chart = alt.layer(*layers, data=data, width=WIDTH, height=HEIGHT)
    title = f"{subject.against(name)}; numbers: prefix length"
    return finished(chart, title, shown, is_positive=is_positive(rows))
