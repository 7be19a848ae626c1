"""The tables of `budgets` as text, each with a sentence that says how it is made."""

import math
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import pandas as pd

from pipeline.baselines.trained import Weights
from pipeline.comparison.budgets import best_within, budgets_of, reached
from pipeline.comparison.histories import validations
from pipeline.comparison.tables import (
    BEST_MARK,
    ShownTable,
    TitledTable,
    shown_bytes,
    shown_interval,
    shown_name,
    sorted_by,
)
from pipeline.config import Params
from pipeline.config.names import PREFIX
from pipeline.metrics.table import METRICS

TASKS = 100
"""The tasks that the table of serving counts the bytes of."""


_BEFORE_STEPS = ("start_seconds", "search_seconds")
"""What of a training's seconds comes before all its steps."""


def budget_tables(seeds: pd.DataFrame, params: Params) -> list[TitledTable]:
    """The tables of the report: at equal steps, parameters and bytes, and what serving costs.

    `seeds` is the table over seeds. All are of trainings on the whole training split. One that
    compares nothing is left out.
    """
    settings = trained_settings(seeds, params)
    found = [
        _within_steps(settings, params),
        _best_within("trainable_parameters", settings, params),
        _best_within("stored_bytes", settings, params),
        _serving(settings, params),
    ]
    return [each for each in found if each is not None]


def within_seconds(
    seeds: pd.DataFrame, timings: Mapping[str, Mapping[str, float]], params: Params
) -> TitledTable | None:
    """What each setting reached within the seconds that others took, by the timings of its runs.

    Of runs that were trained here alone; None where these are fewer than two settings.
    """
    measured = validations(params)
    timed = measured["run"].map(lambda run: timings.get(run, {}))
    took = timed.map(lambda figures: figures.get("training_seconds")).astype(float)
    before = timed.map(lambda figures: sum(figures.get(part, 0.0) for part in _BEFORE_STEPS))
    # From the end, so that the last step is at what the training took, to the digit.
    left = (measured["steps"] - measured["step"]) / measured["steps"].clip(lower=1)
    measured = measured.assign(took=took, spent=took - (took - before) * left)
    measured = measured.dropna(subset=["took"])
    note = (
        "The lowest validation loss (nats per target token) within so many seconds of training, by "
        "the trainings' history.csv and the seconds of the whole training: first those of choosing "
        "or computing its start and of a search of its rate, the others spread evenly over its "
        "steps; a training that was resumed counts from there. What the stage kv_prefix computed, "
        "once for all variants, is not in it. Budgets are what the settings took, and a half and a "
        "quarter of the least. "
    )
    return _reached(
        "Within the same seconds of training",
        measured,
        trained_settings(seeds, params),
        "seconds",
        note,
        params,
    )


def trained_settings(seeds: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The rows over seeds that were trained on the whole split, with their method and weights.

    Prefixes are one method, whatever their length and start, each trained baseline another.
    """
    # A further rate of `sweep.learning_rates` is a setting like others.
    subsets = tuple(f"-train{size}" for size in params.sweep.train_sizes)
    is_whole = ~seeds["name"].str.endswith(subsets)
    # An adapter from elsewhere is a prefix that was not trained here.
    is_prefix = (seeds["kind"] == "variant") & ~seeds["name"].isin([*params.baselines])
    is_trained = seeds["initialization"].isin([*params.trained_baselines])
    found = seeds[is_whole & (is_prefix | is_trained)].reset_index(drop=True)
    named = zip(found["kind"], found["initialization"], strict=True)
    methods = [PREFIX if kind == "variant" else str(family) for kind, family in named]
    weights = [
        Weights.UNCHANGED if method == PREFIX else params.trained_baselines[method].weights
        for method in methods
    ]
    return found.assign(method=methods, weights=[str(each) for each in weights])


def _within_steps(settings: pd.DataFrame, params: Params) -> TitledTable | None:
    measured = validations(params)
    note = (
        "The lowest validation loss (nats per target token) within so many optimizer steps, by the "
        "trainings' history.csv, those of a search of the rate not counted. Budgets are what the "
        "settings took, and a half and a quarter of the least. "
    )
    spent = measured.assign(spent=measured["step"], took=measured["steps"])
    return _reached("Within the same steps", spent, settings, "steps", note, params)


def _reached(
    title: str,
    measured: pd.DataFrame,
    settings: pd.DataFrame,
    unit: str,
    note: str,
    params: Params,
) -> TitledTable | None:
    """A row a setting, best at the end first; a column a budget."""
    of_runs = measured.groupby(["setting", "run"])["took"].first().groupby("setting")
    took, longest = of_runs.mean(), of_runs.max()
    if len(took) < 2:
        return None
    whole = unit == "steps"
    # Within what a setting took, the longest of its runs is over.
    budgets = [float(math.ceil(each)) if whole else each for each in budgets_of(longest)]
    losses = reached(measured, [*dict.fromkeys(budgets)])
    shown = settings[settings["name"].isin(losses.index)]
    lowest = losses.min()
    loss = METRICS["loss"]
    digits = 0 if whole else _digits(budgets)
    rows = [
        [
            shown_name(row),
            f"{took[row['name']]:,.{digits}f}",
            *(
                loss.shown(value) + (BEST_MARK if value == lowest[budget] else "")
                if value == value
                else ""
                for budget, value in losses.loc[row["name"]].items()
            ),
            *_scores(row, params),
        ]
        for row in shown.to_dict("records")
    ]
    heads = [f"≤ {each:,.{digits}f}{'' if whole else ' s'}" for each in losses.columns]
    note += (
        f"*: the lowest within the budget. Sorted by {sorted_by(params)} in the end, which the "
        "scores beside are of, with the weights of the lowest validation loss."
    )
    table = ShownTable(["", unit, *heads, *_score_heads(params)], rows, note)
    return TitledTable(title, table)


def _digits(seconds: Iterable[float]) -> int:
    """As few digits behind the point as tell them apart: one, or of very short trainings more."""
    apart = sorted(set(seconds))
    return next(n for n in count(1) if len({f"{each:.{n}f}" for each in apart}) == len(apart))


_COSTS = {
    "trainable_parameters": ("With as few trained numbers", "trained numbers"),
    "stored_bytes": ("With as few stored bytes", "stored"),
}


def _best_within(cost: str, settings: pd.DataFrame, params: Params) -> TitledTable | None:
    """A row a method within each budget."""
    title, head = _COSTS[cost]
    best = best_within(settings, cost, params)
    if len(best) < 2:
        return None
    shown = shown_bytes if cost == "stored_bytes" else "{:,.0f}".format
    rows = [
        [
            f"≤ {shown(row['budget'])}",
            f"{row['method']}{BEST_MARK if row['is_best'] else ''}",
            str(row["name"]),
            shown(row[cost]),
            METRICS[params.report.sort_by].shown(row[params.report.chosen_by]),
            *_scores(row, params),
        ]
        for row in best.to_dict("records")
    ]
    note = (
        f"Of each method the best setting by {sorted_by(params)} among those that cost no more "
        "than the budget; *: the best of all methods by it. Budgets are the settings' own costs, "
        "of those that are nearly the same the largest, without those that change nothing."
    )
    heads = ["budget", "method", "best setting", head, sorted_by(params), *_score_heads(params)]
    return TitledTable(title, ShownTable(heads, rows, note))


def _serving(settings: pd.DataFrame, params: Params) -> TitledTable | None:
    """A row a setting: what a task takes, and what becomes of the model."""
    if settings["method"].nunique() < 2:
        return None
    rows = [
        [
            shown_name(row),
            shown_bytes(row["stored_bytes"]),
            shown_bytes(TASKS * row["stored_bytes"]),
            shown_bytes(row["cache_bytes"]),
            str(row["weights"]),
            *_scores(row, params),
        ]
        for row in settings.to_dict("records")
    ]
    note = (
        f"Stored bytes are those of one task, and {TASKS} times them those of {TASKS} tasks, "
        "beside one frozen model; a copy is instead of it. The cache is of what stands before a "
        "query, once for all queries of a task that are answered together. Where weights are "
        "unchanged, queries of different tasks go through the model together; with matrices beside "
        "them each row needs its own, or the matrices are merged and the model serves one task; a "
        "copy serves one task. How fast each decodes is in `data/timings/timings.md`."
    )
    heads = ["", "a task", f"{TASKS} tasks", "cache", "the model's weights", *_score_heads(params)]
    return TitledTable("Serving many tasks", ShownTable(heads, rows, note))


def _score_heads(params: Params) -> list[str]:
    title = METRICS[params.report.sort_by].title
    return [f"{split} {title}" for split in _splits(params)]


def _scores(row: Mapping[Any, Any], params: Params) -> list[str]:
    """What it is judged by on every reported split, with its interval."""
    metric = METRICS[params.report.sort_by]
    columns = [f"{split}_{metric.name}" for split in _splits(params)]
    return [
        metric.shown(row[column]) + shown_interval(dict(row), column, metric.name)
        for column in columns
    ]


def _splits(params: Params) -> list[str]:
    """Those that are reported and chose nothing."""
    return [split for split in params.evaluate.splits if split != "validation"]
