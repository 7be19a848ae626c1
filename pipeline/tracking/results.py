"""What of a training and a measurement is a metric of its run, a tag, or a table beside it.

MLflow draws a chart of every metric, so that a metric says what no other one, and no param, says.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from pipeline.config import Params
from pipeline.data.spread import spread
from pipeline.metrics.table import METRICS
from pipeline.statistics.per_example import intervals, read_statistics
from pipeline.storage.records import each_of_jsonl, lines_in, read_json
from pipeline.tracking.runs import log_params, metric_group, sha256
from pipeline.workspace.timings import read_timing

PREDICTIONS, SCORES = "predictions.json", "scores.json"
"""Tables among the artifacts, which MLflow's page of a run shows: a row an example, a metric."""

SEARCH = "learning_rate_search"
"""The key of a training's `metrics.json` that holds the trials of a search of the rate, and the
name of the table of them."""

_INTERVAL = " interval"

_MOST_LINES = 10_000
"""Of predictions in MLflow's table, which a browser loads whole; the file has all."""

# By what is there anyway: the params `length` and `train_size`, or data.max_examples; the last step
# of `train/loss`; and what validation comes to in the end.
_RESTATED = frozenset(
    (
        *("context_tokens", "train_size", "train/steps", "validation/best_loss"),
        # A param of the run, and a table of its own.
        *("learning_rate", SEARCH),
    )
)


def outcome(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a training's `metrics.json` says that nothing else on its run does."""
    return {key: float(value) for key, value in metrics.items() if key not in _RESTATED}


def scores(metrics: Mapping[str, Any], sort_by: str) -> dict[str, float]:
    """`{"test": {"loss": 1}}` as `{"test/loss": 1.0}`: MLflow draws a group for each split.

    Validation is `measured_validation`, since trainings log `validation/loss` step by step. Single
    numbers, such as a baseline's `trainable_parameters`, keep their names. A metric that restates
    another one, as perplexity does loss, is there where all is sorted by it.
    """
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            shown = {name: n for name, n in value.items() if _has_a_chart(name, value, sort_by)}
            found |= {f"{metric_group(key)}/{name}": float(n) for name, n in shown.items()}
        else:
            found |= outcome({key: value})
    return found


def log_search(run_id: str, metrics: Mapping[str, Any]) -> None:
    """Log the rate that a search found, and the table of its trials; nothing without a search."""
    if trials := metrics.get(SEARCH):
        log_params(run_id, {"learning_rate": metrics["learning_rate"]})
        client = MlflowClient()
        known = client.get_run(run_id).data.tags
        tag = _log_tables(run_id, known, {f"{SEARCH}.json": columns(trials)})
        client.log_batch(run_id, tags=[tag])


def log_results(params: Params, run_id: str, folder: Path, model_id: str | None = None) -> None:
    """Log what `folder` holds of a measurement, once: metrics, scores' intervals, predictions."""
    tell_score(params, run_id, folder)
    metrics = read_json(folder / "metrics.json")
    digest = sha256(folder / "metrics.json") + sha256(folder / "predictions.jsonl")
    if (sort_by := params.report.sort_by) and METRICS[sort_by].restates:
        digest = hashlib.sha256(f"{digest} {sort_by}".encode()).hexdigest()
    client = MlflowClient()
    known = client.get_run(run_id).data.tags
    if known.get("evaluation_sha256") == digest:
        return
    figures = {**scores(metrics, sort_by), **timings(folder.name)}
    mlflow.log_metrics(figures, run_id=run_id, model_id=model_id)
    tables = {
        SCORES: _with_intervals(params, metrics, folder),
        PREDICTIONS: columns(_shown_lines(folder / "predictions.jsonl")),
    }
    tag = _log_tables(run_id, known, tables)
    # Last: a run without it was cut short, and is logged again.
    client.log_batch(run_id, tags=[tag, RunTag("evaluation_sha256", digest)])


def _shown_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are logged as a table: all, or as many spread evenly over them."""
    wanted = set(spread(lines_in(path), _MOST_LINES))
    return [line for place, line in enumerate(each_of_jsonl(path)) if place in wanted]


def timings(name: str) -> dict[str, float]:
    """`time/training_seconds` and the like of a variant or baseline, as far as measured here."""
    return {f"time/{key}": value for key, value in read_timing(name).items()}


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, lists joined, which is what MLflow's tables take.

    Statistics that scores are made from are left out: they say nothing to a reader.
    """
    return {
        key: [
            " | ".join(map(str, row[key])) if isinstance(row[key], list) else row[key]
            for row in rows
        ]
        for key in rows[0]
        if not key.endswith("_statistics")
    }


def tell_score(params: Params, run_id: str, folder: Path) -> None:
    """Tag a run with the score that it is sorted by, and the interval of the one it is judged by.

    The first is in its name, the second a column of the comparison.
    """
    metric = METRICS[params.report.sort_by]
    chosen = read_json(folder / "metrics.json")["validation"][metric.name]
    tags = {"score": metric.shown(chosen)}
    if params.report.split in params.evaluate.splits:
        statistics = read_statistics(folder, [params.report.split], [metric.name])
        low, high = intervals([statistics]).values()
        if low == low:  # NaN: a single example has none
            tags[interval_tag(params)] = f"[{metric.number(low)}, {metric.number(high)}]"
    known = MlflowClient().get_run(run_id).data.tags
    for key in known:
        # Of what it was sorted by, or measured on, before.
        told = re.fullmatch(rf"\w+/(\w+){_INTERVAL}", key)
        if told and told[1] in METRICS and key not in tags:
            MlflowClient().delete_tag(run_id, key)
    new = [RunTag(key, value) for key, value in tags.items() if known.get(key) != value]
    if new:
        MlflowClient().log_batch(run_id, tags=new)


def interval_tag(params: Params) -> str:
    """The tag that holds the 95% interval of what variants are judged by."""
    return f"{params.report.split}/{params.report.sort_by}{_INTERVAL}"


def _has_a_chart(name: str, beside: Mapping[str, Any], sort_by: str) -> bool:
    metric = METRICS.get(name)
    return name == sort_by or metric is None or metric.restates not in beside


def _with_intervals(
    params: Params, metrics: Mapping[str, Any], folder: Path
) -> dict[str, list[Any]]:
    """A row a split and metric, with the ends of its 95% interval where examples give one."""
    statistics = read_statistics(folder, params.evaluate.splits, params.metrics)
    ends = intervals([statistics])
    rows = [
        {
            "split": split,
            "metric": name,
            "score": float(value),
            "low": ends.get((split, f"{name}_low")),
            "high": ends.get((split, f"{name}_high")),
        }
        for split, values in metrics.items()
        if isinstance(values, dict)
        for name, value in values.items()
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _log_tables(
    run_id: str, known: Mapping[str, str], tables: Mapping[str, dict[str, list[Any]]]
) -> RunTag:
    """Log tables in place of those that may be there; returns the tag that MLflow's page shows
    tables by, to be set once.

    As `MlflowClient.log_table` does, which appends to what is there, and asks the store for the run
    and its artifacts for each table.
    """
    logged = json.loads(known.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    for file, table in tables.items():
        text = pd.DataFrame(table).to_json(orient="split", index=False, date_format="iso")
        MlflowClient().log_text(run_id, text, file)
        entry = {"path": file, "type": "table"}
        if entry not in logged:
            logged.append(entry)
    return RunTag(MLFLOW_LOGGED_ARTIFACTS, json.dumps(logged))
