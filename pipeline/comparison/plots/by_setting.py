"""Quality against what trainings differ in: their examples, or their learning rate."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from pipeline.comparison.plots.layers import is_positive, level_rows, score_layers
from pipeline.comparison.plots.panels import in_panels
from pipeline.comparison.plots.style import Chart, finished, series_of
from pipeline.comparison.plots.subject import Row, Subject

# Rates below it are written with an exponent.
_SMALL = 1e-3


def by_train_size(subject: Subject) -> Chart:
    """The low-data curve (Li and Liang 2021, figure 3): against training examples.

    Trained baselines are lines in every panel, the others level.
    """
    settings = subject.at_the_rate
    trained = settings[settings["train_size"].notna()]
    sizes = {name: int(n) for name, n in zip(trained["name"], trained["train_size"], strict=True)}
    axis = alt.Axis(format="d")
    return _against(subject, settings, sizes, "training examples", axis, padding=12)


def by_learning_rate(subject: Subject) -> Chart:
    """Against the peak of the learning rate, of one that is searched the median over seeds.

    Baselines are level: what is trained otherwise has rates of another size.
    """
    settings = subject.of_whole_split
    has_rate = (settings["kind"] == "variant") & settings["learning_rate"].notna()
    trained = settings[has_rate]
    rates = dict(zip(trained["name"], trained["learning_rate"].astype(float), strict=True))
    # No wider than the room below the first and the last point.
    label = f"format(datum.value, datum.value < {_SMALL} ? '~e' : '~g')"
    return _against(
        subject, settings, rates, "learning rate", alt.Axis(labelExpr=label), padding=24
    )


def _against(
    subject: Subject,
    settings: pd.DataFrame,
    places: Mapping[str, float],
    what: str,
    axis: alt.Axis,
    padding: int,
) -> Chart:
    """A panel for each prefix length, a line for each initialisation, with intervals and seeds.

    `places` are those of settings on the horizontal axis, `padding` the pixels beside the outer
    ones; other settings are level.
    """
    has_place = settings["name"].isin(places)
    shown = series_of(settings, has_place)
    is_variant = settings["kind"] == "variant"
    lengths = sorted({int(length) for length in settings.loc[has_place & is_variant, "length"]})
    rows: list[Row] = []
    for length in lengths:
        of_length = settings[has_place & is_variant & (settings["length"] == length)]
        baselines = settings[has_place & ~is_variant]
        drawn = [
            *(row for group in (of_length, baselines) for row in subject.rows(group)),
            *(row for group in (of_length, baselines) for row in subject.runs(group)),
        ]
        points = [{**row, "x": places[row["setting"]]} for row in drawn]
        others = list(subject.rows(_level(settings[~has_place], length)))
        level = level_rows(others, points, subject)
        rows += [{**row, "panel": _panel(length)} for row in [*points, *level]]
    values = sorted({row["x"] for row in rows if "x" in row})
    axis.values = values
    scale = alt.Scale(type="log", nice=False, padding=padding)
    x = alt.X("x:Q", title=what, scale=scale, axis=axis)
    layers = score_layers(rows, x, subject, shown, None)
    chart = in_panels(layers, rows, [_panel(length) for length in lengths])
    return finished(chart, subject.against(what), shown, is_positive=is_positive(rows))


def _level(without_place: pd.DataFrame, length: int) -> pd.DataFrame:
    """What has no place; of a text in the context the one of the panel's length."""
    same = without_place["length"] == length
    families = without_place["initialization"]
    has_same = families.isin(set(families[same]))
    return without_place[same | ~has_same].drop_duplicates("initialization")


def _panel(length: int) -> str:
    return f"{length} virtual tokens"
