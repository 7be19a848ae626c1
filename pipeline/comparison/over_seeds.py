"""The second table: seeds together, a row a length, initialisation, training size and rate."""

from typing import Any

import pandas as pd

from pipeline.comparison.choice import best_first, best_setting, setting_of
from pipeline.comparison.summary import ByName
from pipeline.config import Params
from pipeline.statistics.per_example import Comparer, intervals


def over_seeds(table: pd.DataFrame, statistics: ByName, params: Params) -> pd.DataFrame:
    """The summary table with the seeds of one setting in one row.

    Columns: name (without its seed), kind, length, initialization, train_size, seeds (how many),
    learning_rate (the median of theirs), trainable_parameters, stored_bytes, cache_bytes,
    compared_with, is_best, and for each split and
    metric `<split>_<metric>`, its mean over the seeds; `_std`, their standard deviation (empty for
    one seed); of reported splits the mean's 95% interval `_low` and `_high`, over examples and
    seeds, and `_p_value` of the difference from `compared_with`, the best baseline over its seeds,
    corrected for the number of variants. Sorted like the summary.
    """
    by_name = table.set_index("name")
    members = {
        str(setting): sorted(group["name"])
        for setting, group in table.groupby(table["name"].map(setting_of), sort=True)
    }
    rows: list[dict[str, Any]] = []
    for name, runs_of in members.items():
        runs = by_name.loc[runs_of]
        first = runs.iloc[0]
        row: dict[str, Any] = {"name": name}
        row |= {key: first[key] for key in ("kind", "length", "initialization", "train_size")}
        row["seeds"] = len(runs)
        row["learning_rate"] = runs["learning_rate"].astype(float).median()
        row |= {key: first[key] for key in ("trainable_parameters", "stored_bytes", "cache_bytes")}
        row |= {"compared_with": None, "is_best": bool(runs["is_best"].any())}
        for column in _scores(params):
            row[column] = runs[column].mean(skipna=False)
            row[f"{column}_std"] = runs[column].std(skipna=False)
        rows.append(row)
    first_columns = [column for column in rows[0] if not column.startswith(tuple(_scores(params)))]
    seeds = {name: [statistics[run] for run in runs_of] for name, runs_of in members.items()}
    for row in rows:
        row |= {"_".join(key): end for key, end in intervals(seeds[row["name"]]).items()}
    best = best_setting(pd.DataFrame(rows), "baseline", params)
    if best is not None:
        comparer = Comparer(params.report.resamples, params.report.seed)
        variants = {row["name"]: seeds[row["name"]] for row in rows if row["kind"] == "variant"}
        values = comparer.p_values(variants, seeds[best])
        for row in rows:
            if row["kind"] == "variant":
                row |= {"compared_with": best, **values[row["name"]]}
    result = best_first(pd.DataFrame(rows).astype({"train_size": "Int64"}), params)
    ends = ("", "_std", "_low", "_high", "_p_value")
    measured = [f"{column}{end}" for column in _scores(params) for end in ends]
    return result[[*first_columns, *(column for column in measured if column in result)]]


def _scores(params: Params) -> list[str]:
    splits, metrics = params.evaluate.measured_splits, params.metrics
    return [f"{split}_{metric}" for split in splits for metric in metrics]
