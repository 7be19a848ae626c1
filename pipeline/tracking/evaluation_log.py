"""Evaluation results on the runs that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config import Params
from pipeline.records import read_json, read_jsonl
from pipeline.tracking.registered_model import register_model
from pipeline.tracking.runs import (
    flatten,
    make_current,
    runs_named,
    sha256,
    start_run,
)
from pipeline.tracking.store import open_experiment
from pipeline.tracking.training_run import log_training_from_files
from pipeline.variants import Variant

if TYPE_CHECKING:
    from datasets import Dataset


def log_variant(params: Params, variant: Variant, splits: Mapping[str, "Dataset"]) -> str:
    """See that the variant's current run is the one of the files on disk, evaluation included.

    Uses the run whose prefix has the checksum of the file, or logs one from the files when there
    is none (DVC restored them). Returns the run's id; calling it again changes nothing.
    """
    experiment_id = open_experiment(params)
    folder = paths.TRAIN / variant.name
    digest = sha256(folder / "prefix.safetensors")
    for run in runs_named(experiment_id, variant.name):
        if run.data.tags.get("prefix_sha256") == digest:
            run_id = str(run.info.run_id)
            make_current(experiment_id, variant.name, run_id)
            break
    else:
        run_id = log_training_from_files(params, variant, folder, splits)
    prefix = folder / "prefix.safetensors"
    model_id = register_model(params, variant.name, run_id, prefix)
    _log_results(run_id, paths.EVALUATE / variant.name, model_id)
    return run_id


def log_baseline(params: Params, name: str) -> str:
    """As `log_variant`, for a baseline, which has no training."""
    experiment_id = open_experiment(params)
    folder = paths.BASELINES / name
    digest = sha256(folder / "predictions.jsonl") + sha256(folder / "metrics.json")
    for run in runs_named(experiment_id, name):
        if run.data.tags.get("baseline_sha256") == digest:
            run_id = str(run.info.run_id)
            make_current(experiment_id, name, run_id)
            return run_id
    settings = flatten(
        {
            "initialization": name,
            "start": params.baselines[name].model_dump(),
            "evaluate": params.evaluate.model_dump(),
            "model": params.model.model_dump(),
        }
    )
    tags = {"kind": "baseline", "baseline_sha256": digest, "dvc_stage": f"baselines@{name}"}
    run_id = start_run(experiment_id, name, settings, tags)
    _log_results(run_id, folder)
    return run_id


def _log_results(run_id: str, folder: Path, model_id: str | None = None) -> None:
    import mlflow
    from mlflow import MlflowClient

    digest = sha256(folder / "metrics.json") + sha256(folder / "predictions.jsonl")
    if MlflowClient().get_run(run_id).data.tags.get("evaluation_sha256") == digest:
        return
    metrics = read_json(folder / "metrics.json")
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics(slashed(metrics), model_id=model_id)
        predictions = read_jsonl(folder / "predictions.jsonl")
        mlflow.log_table(columns(predictions), "predictions.json")
        mlflow.set_tag("evaluation_sha256", digest)


def slashed(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`{"test": {"loss": 1}}` as `{"test/loss": 1.0}`: MLflow draws a group for each split."""
    return {
        f"{split}/{name}": float(value)
        for split, values in metrics.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, lists joined, which is what MLflow's tables take."""
    return {
        key: [
            " | ".join(map(str, row[key])) if isinstance(row[key], list) else row[key]
            for row in rows
        ]
        for key in rows[0]
    }
