"""The summary table: a row a variant and a baseline, best first, with intervals and p values."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from pipeline.comparison.choice import best_first, best_run
from pipeline.config import Params
from pipeline.statistics.per_example import Comparer, Statistics, intervals, read_statistics
from pipeline.storage.records import read_json
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import all_baselines, all_rows, kind_of, sweep
from pipeline.workspace import paths

ByName = dict[str, Statistics]
"""The per-example statistics of every row of the table."""


def statistics_of_all(params: Params) -> ByName:
    """The per-example statistics of everything that params.yaml lists, on the reported splits."""
    splits, metrics = params.evaluate.splits, params.metrics
    return {
        row.name: read_statistics(paths.EVALUATE / row.name, splits, metrics)
        for row in all_rows(params)
    }


def summarize(params: Params, statistics: ByName) -> pd.DataFrame:
    """The evaluation of everything that params.yaml lists.

    Columns: name, kind (variant or baseline), length in virtual tokens (of context for an
    in-context baseline), initialization (the family of a baseline), seed, train_size (training
    examples) and learning_rate (its peak; both empty for what is not trained),
    trainable_parameters, stored_bytes (of what is kept beside the frozen model), cache_bytes (of
    the keys and values before each input, in the frozen model's dtype), compared_with, is_best (of
    one variant), for each metric its score
    `validation_<metric>`, and for each reported split and metric `<split>_<metric>`, its 95%
    interval `_low` and `_high`, and `_p_value` of a variant's difference from `compared_with`, the
    best baseline, corrected for the number of variants. Best first: see `choice`.
    """
    return judged(_rows(params), statistics, params)


def best_evaluated(params: Params) -> str:
    """The variant that `summarize` will call the best, from the same scores.

    Raises PipelineError for a variant that is not trained or evaluated yet.
    """
    adapters = [b for b in all_baselines(params) if kind_of(params, b.name) == "variant"]
    rows = [*_variant_rows(params), *_baseline_rows(params, adapters)]
    best = best_run(pd.DataFrame(rows), "variant", params)
    assert best is not None
    return best


def judged(rows: list[dict[str, Any]], statistics: ByName, params: Params) -> pd.DataFrame:
    """The summary of rows that have names, costs and scores, but no verdicts yet."""
    table = pd.DataFrame(rows).astype({"seed": "Int64", "train_size": "Int64"})
    best = best_run(table, "variant", params)
    baseline = best_run(table, "baseline", params)
    variants = list(table.loc[table["kind"] == "variant", "name"])
    found: dict[str, dict[str, Any]] = {
        name: {"_".join(key): end for key, end in intervals([own]).items()}
        for name, own in statistics.items()
    }
    if baseline is not None:
        comparer = Comparer(params.report.resamples, params.report.seed)
        systems = {name: [statistics[name]] for name in variants}
        for name, values in comparer.p_values(systems, [statistics[baseline]]).items():
            found[name] |= {"compared_with": baseline, **values}
    judged_rows = [
        {**row, **found[row["name"]], "is_best": row["name"] == best}
        for row in table.to_dict("records")
    ]
    table = pd.DataFrame(judged_rows).astype({"seed": "Int64", "train_size": "Int64"})
    table = best_first(table, params)
    return table[[*_FIRST, *_measured_columns(table, params)]]


_FIRST = (
    *("name", "kind", "length", "initialization", "seed", "train_size"),
    *("learning_rate", "trainable_parameters", "stored_bytes", "cache_bytes"),
    *("compared_with", "is_best"),
)
_OF_A_TRAINING = ("train_size", "learning_rate", "trainable_parameters", "stored_bytes")


def _rows(params: Params) -> list[dict[str, Any]]:
    return [*_variant_rows(params), *_baseline_rows(params, all_baselines(params))]


def _variant_rows(params: Params) -> list[dict[str, Any]]:
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
                **{key: trained.get(key) for key in _OF_A_TRAINING},
                "cache_bytes": measured["cache_bytes"],
                "compared_with": None,
                **_flat(measured),
            }
        )
    return rows


def _baseline_rows(params: Params, baselines: Iterable[Baseline]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for baseline in baselines:
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
        for split in params.evaluate.measured_splits
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
