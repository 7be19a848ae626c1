"""The summary table: a row a variant and a baseline, best first, with intervals and p values."""

from typing import Any

import pandas as pd

from pipeline.config import Params
from pipeline.statistics.per_example import Comparer, Statistics, read_statistics
from pipeline.storage.records import read_json
from pipeline.sweep.grid import all_baselines, all_rows, kind_of, sweep
from pipeline.workspace import paths

ByName = dict[str, Statistics]
"""The per-example statistics of every row of the table."""


def statistics_of_all(params: Params) -> ByName:
    """The per-example statistics of everything that params.yaml lists."""
    splits, metrics = params.evaluate.splits, params.metrics
    return {
        row.name: read_statistics(paths.EVALUATE / row.name, splits, metrics)
        for row in all_rows(params)
    }


def summarize(params: Params, statistics: ByName) -> pd.DataFrame:
    """The evaluation of everything that params.yaml lists.

    Columns: name, kind (variant or baseline), length in virtual tokens (of context for an
    in-context baseline), initialization (the family of a baseline), seed, train_size (training
    examples; empty for what is not trained), trainable_parameters, stored_bytes (of what is kept
    beside the frozen model), cache_bytes (of the keys and values before each input, in the
    frozen model's dtype), compared_with, and for each split and metric `<split>_<metric>`, its
    95% interval `_low` and `_high`, and `_p_value` of a variant's difference from `compared_with`,
    the best baseline. Sorted by `report.sort_by` on `report.split`, best first.
    """
    rows = _rows(params)
    best = best_baseline(rows, params)
    comparer = Comparer(params.report.resamples, params.report.seed)
    for row in rows:
        own = statistics[row["name"]]
        row |= {"_".join(key): end for key, end in comparer.intervals(own).items()}
        if best is not None and row["kind"] == "variant":
            row["compared_with"] = best
            row |= comparer.p_values(own, statistics[best])
    table = pd.DataFrame(rows).astype({"seed": "Int64", "train_size": "Int64"})
    table = best_first(table, params)
    return table[[*_FIRST, *_measured_columns(table, params)]]


def best_first(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The rows sorted by `report.sort_by` on `report.split`, then by name."""
    by, ascending = [params.report.sort_column, "name"], [params.report.ascending, True]
    return table.sort_values(by, ascending=ascending, ignore_index=True)


def best_baseline(rows: list[dict[str, Any]], params: Params) -> str | None:
    """The baseline that a table's variants are compared with; None if there is none."""
    key, sign = params.report.sort_column, 1 if params.report.ascending else -1
    ranked = sorted((sign * row[key], row["name"]) for row in rows if row["kind"] == "baseline")
    return ranked[0][1] if ranked else None


def loss_by_length(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Evaluation loss of every variant: columns series (initialisation, split), length, loss.

    Several seeds are one point, their mean; variants of `sweep.train_sizes` are left out.
    """
    whole = {variant.name for variant in sweep(params) if variant.train_size is None}
    variants = table[table["name"].isin(whole)]
    tables = []
    for split in params.evaluate.splits:
        means = variants.groupby(["initialization", "length"], as_index=False)[
            f"{split}_loss"
        ].mean()
        series = means["initialization"] + ", " + split
        tables.append(
            pd.DataFrame(
                {"series": series, "length": means["length"], "loss": means[f"{split}_loss"]}
            )
        )
    return pd.concat(tables, ignore_index=True)


_FIRST = (
    *("name", "kind", "length", "initialization", "seed", "train_size"),
    *("trainable_parameters", "stored_bytes", "cache_bytes", "compared_with"),
)
_OF_A_TRAINING = ("train_size", "trainable_parameters", "stored_bytes")


def _rows(params: Params) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for variant in sweep(params):
        trained = read_json(paths.TRAIN / variant.name / "metrics.json")
        measured = read_json(paths.EVALUATE / variant.name / "metrics.json")
        rows.append(
            {
                "name": variant.name,
                "kind": "variant",
                "length": variant.length,
                "initialization": variant.initialization,
                "seed": variant.seed,
                **{key: trained[key] for key in _OF_A_TRAINING},
                "cache_bytes": measured["cache_bytes"],
                "compared_with": None,
                **_flat(measured),
            }
        )
    for baseline in all_baselines(params):
        measured = read_json(paths.EVALUATE / baseline.name / "metrics.json")
        rows.append(
            {
                "name": baseline.name,
                "kind": kind_of(params, baseline.name),
                "length": measured["context_tokens"],
                "initialization": baseline.family,
                "seed": baseline.seed,
                **{key: measured.get(key) for key in _OF_A_TRAINING},
                "cache_bytes": measured["cache_bytes"],
                "compared_with": None,
                **_flat(measured),
            }
        )
    return rows


def _measured_columns(table: pd.DataFrame, params: Params) -> list[str]:
    columns = [
        f"{split}_{metric}{suffix}"
        for split in params.evaluate.splits
        for metric in params.metrics
        for suffix in ("", "_low", "_high", "_p_value")
    ]
    return [column for column in columns if column in table]


def _flat(measured: dict[str, Any]) -> dict[str, float]:
    return {
        f"{split}_{metric}": value
        for split, metrics in measured.items()
        if isinstance(metrics, dict)
        for metric, value in metrics.items()
    }
