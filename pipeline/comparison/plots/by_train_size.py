"""The low-data curve (Li and Liang 2021, figure 3): quality against training examples."""

import altair as alt
import pandas as pd

from pipeline.comparison.plots.layers import is_positive, level_rows, score_layers
from pipeline.comparison.plots.panels import in_panels
from pipeline.comparison.plots.style import Chart, finished, series_of
from pipeline.comparison.plots.subject import Row, Subject


def by_train_size(subject: Subject) -> Chart:
    """A panel for each prefix length, a line for each initialisation, with intervals and seeds.

    Trained baselines are lines in every panel, the others level.
    """
    settings = subject.seeds
    shown = series_of(settings)
    trained = settings["train_size"].notna()
    variants = settings[trained & (settings["kind"] == "variant")]
    lengths = sorted({int(length) for length in variants["length"]})
    sizes = dict(zip(settings["name"], settings["train_size"], strict=True))
    rows: list[Row] = []
    for length in lengths:
        of_length = variants[variants["length"] == length]
        baselines = settings[trained & (settings["kind"] == "baseline")]
        drawn = [
            *(row for group in (of_length, baselines) for row in subject.rows(group)),
            *(row for group in (of_length, baselines) for row in subject.runs(group)),
        ]
        points = [{**row, "x": int(sizes[row["setting"]])} for row in drawn]
        level = level_rows(list(subject.rows(_level(subject, length))), points, subject)
        rows += [{**row, "panel": _panel(length)} for row in [*points, *level]]
    ticks = sorted({row["x"] for row in rows if "x" in row})
    scale = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X(
        "x:Q", title="training examples", scale=scale, axis=alt.Axis(values=ticks, format="d")
    )
    layers = score_layers(rows, x, subject, shown, None)
    chart = in_panels(layers, rows, [_panel(length) for length in lengths])
    title = subject.against("training examples")
    return finished(chart, title, shown, is_positive=is_positive(rows))


def _level(subject: Subject, length: int) -> pd.DataFrame:
    """What is not trained; of a text in the context the one of the panel's length."""
    settings = subject.seeds
    untrained = settings[settings["train_size"].isna()]
    same = untrained["length"] == length
    families = untrained["initialization"]
    has_same = families.isin(set(families[same]))
    return untrained[same | ~has_same].drop_duplicates("initialization")


def _panel(length: int) -> str:
    return f"{length} virtual tokens"
