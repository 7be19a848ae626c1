"""The layers that pictures of scores share; each shows the rows of one value of `mark`.

A row's `y` is the score, `low` and `high` the ends of its interval, `x` its place.
"""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from pipeline.comparison.plots.style import Series, look
from pipeline.comparison.plots.subject import Row, Subject

# Pixels that the narrowest panel has for a reference line's name; the legend has the whole name.
_NAME = 200
# The height of such a name, as a share of the picture's.
_NAME_HEIGHT = 0.06

_OF_A_SETTING = (
    *(("name", "setting"), ("initialisation", "initialisation"), ("length", "length")),
    *(("seeds", "seeds"), ("score", "score")),
)

SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
"""Where the name of a reference line stands."""


def score_layers(
    rows: Sequence[Row], x: alt.X, subject: Subject, shown: Sequence[Series], title: str | None
) -> list[alt.Chart]:
    """Reference lines, lines through points, intervals, single seeds, and the points.

    `title` heads the legend.
    """
    marks = {row["mark"] for row in rows}
    y = score_axis(subject, rows)
    colours = look(shown, title)
    tips = [alt.Tooltip(field, type="nominal", title=name) for field, name in _OF_A_SETTING]

    def of(mark: str) -> alt.Chart:
        return alt.Chart().transform_filter(alt.datum.mark == mark)

    plain = {name: colours[name] for name in ("color", "strokeDash")}
    layers = []
    if "level" in marks:
        level = of("level")
        layers.append(level.mark_rule(strokeWidth=1.5).encode(y=y, tooltip=tips, **plain))
        sides = {row["side"] for row in rows if row["mark"] == "level"}
        for align in [side for side in SIDES if side in sides]:
            named = level.transform_filter(alt.datum.side == align)
            dx = 4 if align == "left" else -4
            dy = alt.expr("datum.below ? 10 : -6")
            text = named.mark_text(align=align, dy=dy, dx=dx, fontSize=10, limit=_NAME)
            place = 0 if align == "left" else "width"
            layers.append(
                text.encode(x=alt.value(place), y=y, text="name:N", color=colours["color"])
            )
    if "point" in marks:
        line = of("point").mark_line(strokeWidth=1.8)
        layers.append(line.encode(x=x, y=y, order=alt.Order("x:Q"), **plain))
        ends = of("point").mark_rule(strokeWidth=1.4)
        layers.append(
            ends.encode(x=x, y=y_of("low", subject, rows), y2="high:Q", color=colours["color"])
        )
    if "run" in marks:
        run = of("run").mark_point(size=22, filled=True, opacity=0.4)
        layers.append(run.encode(x=x, y=y, tooltip=tips, **_of_points(colours)))
    if "point" in marks:
        point = of("point").mark_point(size=64, filled=True, opacity=1)
        layers.append(point.encode(x=x, y=y, tooltip=tips, **_of_points(colours)))
    return [*layers[:-1], zoomable(layers[-1])]


def score_axis(subject: Subject, rows: Sequence[Row]) -> alt.Y:
    """The vertical axis of the metric; a score that is better higher is seen from zero."""
    return y_of("y", subject, rows)


def y_of(field: str, subject: Subject, rows: Sequence[Row]) -> alt.Y:
    """The same axis for another field."""
    metric = subject.metric
    zero = metric.higher_is_better or is_flat(rows)
    scale = alt.Scale(type="linear", zero=zero, nice=True)
    percent: dict[str, Any] = {"format": ".0%"} if metric.form.sign == "%" else {}
    axis = alt.Axis(tickCount=6, **percent)
    return alt.Y(field, type="quantitative", title=metric.axis, scale=scale, axis=axis)


def level_rows(rows: list[Row], others: Sequence[Row], subject: Subject) -> list[Row]:
    """Rows without a place of their own, as lines across, beside the `others` of the picture.

    Neighbours are named at either end (`side`), the highest below their line (`below`), which else
    would stand out of the picture. Where names would meet, one has no side: the legend has it.
    """
    # A line across has no interval that is drawn.
    heights = [*_heights(others), *(row["y"] for row in rows if row["y"] is not None)]
    top, bottom = max(heights, default=0.0), min(heights, default=0.0)
    name = _NAME_HEIGHT * (top - (0.0 if subject.metric.higher_is_better else bottom))
    ordered = sorted(rows, key=lambda row: (row["y"] is None, row["y"] or 0.0, row["name"]))
    levels: list[Row] = []
    taken: dict[str, float] = {}
    for place, row in enumerate(ordered):
        y = row["y"]
        if y is None:
            levels.append({**row, "mark": "level", "side": None, "below": False})
            continue
        below = y > top - name
        middle = y - name / 2 if below else y + name / 2
        first, second = SIDES[place % 2], SIDES[1 - place % 2]
        free = [s for s in (first, second) if s not in taken or abs(middle - taken[s]) >= name]
        side = free[0] if free else None
        if side is not None:
            taken[side] = middle
        levels.append({**row, "mark": "level", "side": side, "below": below})
    return levels


def zoomable(layer: alt.Chart) -> alt.Chart:
    """Dragging moves all layers, the wheel with shift zooms, a double click resets.

    The wheel alone scrolls the page. The layer has a name, since Altair would count one up.
    """
    zoom = alt.selection_interval(
        name="zoom", bind="scales", zoom="wheel![event.shiftKey]", clear="dblclick"
    )
    return layer.properties(name="on_top").add_params(zoom)


def is_positive(rows: Sequence[Row]) -> bool:
    """Whether all that is drawn may stand at a logarithmic axis."""
    return all(height > 0 for height in _heights(rows))


def is_flat(rows: Sequence[Row]) -> bool:
    """Whether all that is drawn is at one height: an axis that has nothing else has no scale."""
    return len(set(_heights(rows))) < 2


def _heights(rows: Sequence[Row]) -> list[float]:
    ends = [row.get(end) for row in rows for end in ("y", "low", "high")]
    return [end for end in ends if end is not None]


def _of_points(colours: dict[str, Any]) -> dict[str, Any]:
    return {name: colours[name] for name in ("color", "shape")}
