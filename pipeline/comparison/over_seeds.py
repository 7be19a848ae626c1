"""The second table: seeds together, a row a length, initialisation and training size."""

from typing import Any

import pandas as pd

from pipeline.comparison.summary import ByName, best_baseline, best_first
from pipeline.config import Params
from pipeline.statistics.per_example import Comparer, averaged
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import all_rows
from pipeline.sweep.variants import Variant


def over_seeds(table: pd.DataFrame, statistics: ByName, params: Params) -> pd.DataFrame:
    """The summary table with the seeds of one setting in one row.

    Columns: name (without its seed), kind, length, initialization, train_size, seeds (how many),
    trainable_parameters, stored_bytes, cache_bytes, compared_with, and for each split and metric
    `<split>_<metric>`, its mean over the seeds; `_std`, their standard deviation (empty for one
    seed); and `_p_value` of the difference from `compared_with`, the best baseline over its seeds,
    with statistics averaged over the seeds example by example. Sorted like the summary.
    """
    groups = _groups(params)
    rows: list[dict[str, Any]] = []
    by_name = table.set_index("name")
    for name, members in groups.items():
        runs = by_name.loc[members]
        first = runs.iloc[0]
        row: dict[str, Any] = {"name": name}
        row |= {key: first[key] for key in ("kind", "length", "initialization", "train_size")}
        row["seeds"] = len(members)
        row |= {key: first[key] for key in ("trainable_parameters", "stored_bytes", "cache_bytes")}
        row["compared_with"] = None
        for column in _scores(params):
            row[column] = runs[column].mean()
            row[f"{column}_std"] = runs[column].std()
        rows.append(row)
    pooled = {
        name: averaged(statistics[member] for member in members) for name, members in groups.items()
    }
    best = best_baseline(rows, params)
    comparer = Comparer(params.report.resamples, params.report.seed)
    for row in rows:
        if best is not None and row["kind"] == "variant":
            row["compared_with"] = best
            row |= comparer.p_values(pooled[row["name"]], pooled[best])
    result = pd.DataFrame(rows).astype({"train_size": "Int64"})
    result = best_first(result, params)
    measured = [
        f"{column}{suffix}" for column in _scores(params) for suffix in ("", "_std", "_p_value")
    ]
    first_columns = [column for column in rows[0] if not column.startswith(tuple(_scores(params)))]
    return result[[*first_columns, *(column for column in measured if column in result)]]


def _groups(params: Params) -> dict[str, list[str]]:
    """The name of each setting, and the names of its seeds' rows."""
    groups: dict[str, list[str]] = {}
    runs: list[Variant | Baseline] = all_rows(params)
    for run in runs:
        setting = run.name.replace(f"-seed{run.seed}", "") if run.seed is not None else run.name
        groups.setdefault(setting, []).append(run.name)
    return groups


def _scores(params: Params) -> list[str]:
    splits, metrics = params.evaluate.splits, params.metrics
    return [f"{split}_{metric}" for split in splits for metric in metrics]
