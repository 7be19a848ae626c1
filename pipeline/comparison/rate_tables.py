"""Every variant at every learning rate of `sweep.learning_rates`: which rate suits which start."""

import pandas as pd

from pipeline.comparison.choice import best_first, setting_of
from pipeline.comparison.tables import BEST_MARK, ShownTable, TitledTable, sorted_by, with_spread
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.sweep.grid import sweep

_SEARCHED = "auto"


def rate_tables(seeds: pd.DataFrame, params: Params) -> list[TitledTable]:
    """A table for what is chosen by and what is judged by, and for the losses beside them.

    `seeds` is the table over seeds. A row is a length and a start, a column a rate. No table where
    the sweep lists no rates.
    """
    if not params.sweep.learning_rates:
        return []
    by_row = _settings(seeds, params)
    best = {row: str(best_first(own, params)["name"].iloc[0]) for row, own in by_row.items()}
    splits = ("validation", params.report.split)
    metrics = (params.report.sort_by, "loss")
    shown = dict.fromkeys((split, metric) for metric in metrics for split in splits)
    return [_table(by_row, best, split, metric, params) for split, metric in shown]


def _settings(seeds: pd.DataFrame, params: Params) -> dict[str, pd.DataFrame]:
    """Of each length and start its settings of the whole training split, by the rates' columns."""
    by_name = seeds.set_index("name", drop=False).rename_axis(None)
    columns: dict[str, dict[str, str]] = {}
    for variant in sweep(params):
        if variant.train_size is None:
            row = f"len{variant.length}-{variant.initialization}"
            rate = variant.learning_rate or params.train.learning_rate
            columns.setdefault(row, {})[str(rate)] = setting_of(variant.name)
    return {
        row: by_name.loc[list(settings.values())].assign(rate=list(settings))
        for row, settings in columns.items()
    }


def _table(
    by_row: dict[str, pd.DataFrame], best: dict[str, str], split: str, metric: str, params: Params
) -> TitledTable:
    rates = sorted([*params.sweep.learning_rates, *_plain_rate(params)])
    heads = [*([] if _plain_rate(params) else [_SEARCHED]), *map(str, rates)]
    rows = []
    for row, settings in by_row.items():
        cells = {}
        for setting in settings.to_dict("records"):
            cell = with_spread(setting, split, metric)
            if setting["rate"] == _SEARCHED:
                cell += f" at {setting['learning_rate']:g}"
            cells[setting["rate"]] = cell + (BEST_MARK if setting["name"] == best[row] else "")
        rows.append([row, *(cells[head] for head in heads)])
    title = f"{split} {METRICS[metric].title}"
    return TitledTable(f"{title} by learning rate", ShownTable(["", *heads], rows, _note(params)))


def _plain_rate(params: Params) -> list[float]:
    """`train.learning_rate`; none where a search finds it."""
    rate = params.train.learning_rate
    return [] if rate == "auto" else [rate]


def _note(params: Params) -> str:
    own = _plain_rate(params)
    said = (
        f"{own[0]} is train.learning_rate"
        if own
        else "The column auto is at the rates that searches found, the median over seeds"
    )
    return (
        f"*: the best rate of the row by {sorted_by(params)}; where that is the lowest or the "
        f"highest, one further out may be better. {said}."
    )
