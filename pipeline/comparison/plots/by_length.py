"""A metric against prefix length."""

import itertools
from collections.abc import Sequence
from math import log2

import altair as alt
import pandas as pd

from pipeline.comparison.plots.layers import is_positive, level_rows, score_layers
from pipeline.comparison.plots.style import HEIGHT, WIDTH, Chart, finished, series_of
from pipeline.comparison.plots.subject import Row, Subject

# Of the distance between two lengths, the share in which the initialisations stand side by side.
_SPREAD = 0.3


def by_length(subject: Subject) -> Chart:
    """A line for each initialisation, intervals and seeds; what has no length is level."""
    settings = subject.plain
    at_a_length = (settings["kind"] == "variant") | _are_texts(subject)
    shown = series_of(settings, at_a_length)
    lengths = sorted({int(length) for length in settings.loc[at_a_length, "length"]})
    points = [*subject.rows(settings[at_a_length]), *subject.runs(settings[at_a_length])]
    drawn = {row["series"] for row in points}
    ordered = [one.label for one in shown if one.label in drawn]
    places = {label: place for place, label in enumerate(ordered)}
    rows: list[Row] = []
    for row in points:
        aside = _aside(places[row["series"]], len(places), lengths)
        rows.append({**row, "x": row["length"] * 2**aside})
    rows += level_rows(list(subject.rows(settings[~at_a_length])), rows, subject)
    edge = 2 ** max(0.4, _SPREAD * _gap(lengths))
    scale = alt.Scale(type="log", base=2, domain=[lengths[0] / edge, lengths[-1] * edge])
    x = alt.X(
        "x:Q",
        title="prefix length (virtual tokens)",
        scale=scale,
        axis=alt.Axis(values=lengths, format="d"),
    )
    layers = score_layers(rows, x, subject, shown, None)
    data = alt.InlineData(values=rows)
    chart = alt.layer(*layers, data=data, width=WIDTH, height=HEIGHT)
    title = subject.against("prefix length")
    return finished(chart, title, shown, is_positive=is_positive(rows))


def _are_texts(subject: Subject) -> "pd.Series[bool]":
    """Which settings are texts in the context that have several lengths, as prefixes have."""
    settings = subject.plain
    untrained = settings["train_size"].isna() & (settings["kind"] == "baseline")
    several = settings.groupby("initialization")["length"].transform("nunique") > 1
    return untrained & several


def _aside(place: int, count: int, lengths: Sequence[int]) -> float:
    """How far, in powers of two, a series stands from its length."""
    return (place - (count - 1) / 2) / max(1, count - 1) * _SPREAD * min(1.0, _gap(lengths))


def _gap(lengths: Sequence[int]) -> float:
    pairs = itertools.pairwise(lengths)
    return min((log2(after / before) for before, after in pairs), default=1.0)
