"""The charts of the comparison, as cards of MLflow's charts page.

MLflow adds a chart for every other metric, below these and in sections of their own.
"""

from typing import Any

from pipeline.config import Params

_SECTION = "comparison"

SECTIONS = [
    {
        "uuid": _SECTION,
        "name": "Comparison",
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
]
"""The sections that cards lie in."""


def cards(params: Params, chosen: str, judged: str) -> list[dict[str, Any]]:
    """Loss curves, bars of what is sorted and judged by, and settings against the score.

    `chosen` and `judged` are metrics' names in MLflow.
    """
    settings = ["length", "initialization"]
    if len(params.sweep.seeds) > 1:
        settings.append("seed")
    if params.sweep.train_sizes:
        settings.append("train_size")
    if params.sweep.learning_rates:
        settings.append("learning_rate")
    return [
        _line("validation/loss"),
        _bar(chosen),
        _card("PARALLEL", selectedParams=settings, selectedMetrics=[chosen], showAllRuns=False),
        _line("train/loss"),
        *([] if judged == chosen else [_bar(judged)]),
        _card(
            "SCATTER",
            xaxis={"key": "length", "type": "PARAM"},
            yaxis={"key": judged, "type": "METRIC"},
        ),
    ]


def _line(metric: str) -> dict[str, Any]:
    return _card(
        "LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        scaleType="log",
        lineSmoothness=0,
        range={},
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _bar(metric: str) -> dict[str, Any]:
    return _card("BAR", metricKey=metric)


def _card(kind: str, **settings: Any) -> dict[str, Any]:
    named = "-".join([kind, *(str(value) for value in settings.values() if isinstance(value, str))])
    return {
        "uuid": named,
        "type": kind,
        "metricSectionId": _SECTION,
        # Its own default is 10 runs.
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }
