"""Evaluation results on the runs that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.statistics.per_example import intervals, read_statistics
from pipeline.storage.records import read_json, read_jsonl
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import definition_of, kind_of
from pipeline.sweep.variants import Variant
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.registered_model import register_adapter, register_model
from pipeline.tracking.runs import (
    flatten,
    make_current,
    metric_group,
    runs_named,
    sha256,
    start_run,
)
from pipeline.tracking.store import never_fatal, open_experiment
from pipeline.tracking.training_run import log_history, log_training_from_files
from pipeline.workspace import paths
from pipeline.workspace.timings import read_timing


def log_variant(params: Params, variant: Variant) -> str:
    """See that the variant's current run is the one of the files on disk, evaluation included.

    Uses the run whose prefix has the checksum of the file, or logs one from the files when there
    is none (DVC restored them). Returns the run's id; calling it again changes nothing.
    """
    experiment_id = open_experiment(params)
    # The training's own run may still be on its way.
    deliver_pending(variant.name)
    folder = paths.TRAIN / variant.name
    digest = sha256(folder / "prefix.safetensors")
    for run in runs_named(experiment_id, variant.name):
        if run.data.tags.get("prefix_sha256") == digest:
            run_id = str(run.info.run_id)
            make_current(experiment_id, variant.name, run_id)
            break
    else:
        run_id = log_training_from_files(params, variant, folder)
    model_id = None
    with never_fatal("register the variant's model"):
        model_id = register_model(params, variant.name, run_id, folder / "prefix.safetensors")
    _log_results(params, run_id, paths.EVALUATE / variant.name, model_id)
    return run_id


def log_baseline(params: Params, baseline: Baseline) -> str:
    """As `log_variant`, for a baseline; the history of a trained one is read from its files."""
    experiment_id = open_experiment(params)
    name = baseline.name
    folder = paths.EVALUATE / name
    digest = sha256(folder / "predictions.jsonl") + sha256(folder / "metrics.json")
    for run in runs_named(experiment_id, name):
        if run.data.tags.get("baseline_sha256") == digest:
            run_id = str(run.info.run_id)
            make_current(experiment_id, name, run_id)
            return run_id
    length = read_json(folder / "metrics.json")["context_tokens"]
    settings = flatten(
        {
            "length": length,
            "initialization": baseline.family,
            **({} if baseline.seed is None else {"seed": baseline.seed}),
            **({} if baseline.train_size is None else {"train_size": baseline.train_size}),
            "start": definition_of(params, baseline),
            **({} if baseline.seed is None else {"train": _training(params, baseline)}),
            "evaluate": params.evaluate.model_dump(),
            "model": params.model.model_dump(),
        }
    )
    adapter = params.baselines.get(name)
    kind = kind_of(params, name)
    tags = {"kind": kind, "baseline_sha256": digest, "dvc_stage": baseline.dvc_stage}
    run_id = start_run(experiment_id, name, settings, tags)
    if baseline.seed is not None:
        log_history(run_id, paths.TRAIN / name)
        mlflow.log_metrics(read_json(paths.TRAIN / name / "metrics.json"), run_id=run_id)
    model_id = None
    if adapter is not None and adapter.is_variant:
        with never_fatal("register the adapter's model"):
            model_id = register_adapter(params, name, run_id, Path(adapter.path))
    _log_results(params, run_id, folder, model_id)
    return run_id


def _training(params: Params, baseline: Baseline) -> dict[str, Any]:
    definition = params.trained_baselines[baseline.family]
    return definition.training(params.train).model_dump()


def _log_results(params: Params, run_id: str, folder: Path, model_id: str | None = None) -> None:
    digest = sha256(folder / "metrics.json") + sha256(folder / "predictions.jsonl")
    if MlflowClient().get_run(run_id).data.tags.get("evaluation_sha256") == digest:
        return
    metrics = read_json(folder / "metrics.json")
    with mlflow.start_run(run_id=run_id):
        figures = {**slashed(metrics), **_intervals(params, folder), **timings(folder.name)}
        mlflow.log_metrics(figures, model_id=model_id)
        predictions = read_jsonl(folder / "predictions.jsonl")
        mlflow.log_table(columns(predictions), "predictions.json")
        mlflow.set_tag("evaluation_sha256", digest)


def _intervals(params: Params, folder: Path) -> dict[str, float]:
    """`test/loss_low`, `test/loss_high` and so on, as the summary table has them."""
    statistics = read_statistics(folder, params.evaluate.splits, params.metrics)
    return {
        f"{metric_group(split)}/{name}": end
        for (split, name), end in intervals([statistics]).items()
        if end == end  # NaN: a single example has none
    }


def timings(name: str) -> dict[str, float]:
    """`time/training_seconds` and the like of a variant or baseline, as far as measured here."""
    return {f"time/{key}": value for key, value in read_timing(name).items()}


def slashed(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`{"test": {"loss": 1}}` as `{"test/loss": 1.0}`: MLflow draws a group for each split.

    Validation is `measured_validation`, since trainings log `validation/loss` step by step. Single
    numbers, such as a baseline's `trainable_parameters`, keep their names.
    """
    slashed: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            group = metric_group(key)
            slashed |= {f"{group}/{name}": float(number) for name, number in value.items()}
        else:
            slashed[key] = float(value)
    return slashed


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
