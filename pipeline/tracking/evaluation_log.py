"""Evaluation results on the runs that they belong to."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.storage.records import read_json
from pipeline.sweep.baselines import Baseline
from pipeline.sweep.grid import definition_of, kind_of
from pipeline.sweep.variants import Variant
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.registered_model import register_adapter, register_model
from pipeline.tracking.results import log_results, log_search, outcome
from pipeline.tracking.runs import flatten, sha256, start_run
from pipeline.tracking.state import make_current, runs_named
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
            break
    else:
        run_id = log_training_from_files(params, variant, folder)
    model_id = None
    with never_fatal("register the variant's model"):
        model_id = register_model(params, variant.name, run_id, folder / "prefix.safetensors")
    log_results(params, run_id, paths.EVALUATE / variant.name, model_id)
    # Its name has its score.
    make_current(experiment_id, variant.name, run_id)
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
            break
    else:
        run_id = _start_baseline(params, baseline, experiment_id)
    model_id = None
    adapter = params.baselines.get(name)
    if adapter is not None and adapter.is_variant:
        with never_fatal("register the adapter's model"):
            model_id = register_adapter(params, name, run_id, Path(adapter.path))
    log_results(params, run_id, folder, model_id)
    # A run without it was cut short, and is not found again.
    MlflowClient().set_tag(run_id, "baseline_sha256", digest)
    make_current(experiment_id, name, run_id)
    return run_id


def _start_baseline(params: Params, baseline: Baseline, experiment_id: str) -> str:
    name, is_trained = baseline.name, baseline.seed is not None
    training = _training(params, baseline) if is_trained else {}
    settings = flatten(
        {
            "length": read_json(paths.EVALUATE / name / "metrics.json")["context_tokens"],
            "initialization": baseline.family,
            **({"seed": baseline.seed} if is_trained else {}),
            **({} if baseline.train_size is None else {"train_size": baseline.train_size}),
            **_known_rate(training),
            "start": definition_of(params, baseline),
            **({"train": training} if is_trained else {}),
            "evaluate": params.evaluate.model_dump(),
            "model": params.model.model_dump(),
        }
    )
    tags = {"kind": kind_of(params, name), "dvc_stage": baseline.dvc_stage}
    seconds = read_timing(name).get("training_seconds") if is_trained else None
    run_id = start_run(experiment_id, name, settings, tags, seconds)
    if is_trained:
        log_history(run_id, paths.TRAIN / name)
        trained = read_json(paths.TRAIN / name / "metrics.json")
        mlflow.log_metrics(outcome(trained), run_id=run_id)
        log_search(run_id, trained)
    return run_id


def _known_rate(training: dict[str, Any]) -> dict[str, Any]:
    # What a search found is logged with its table.
    rate = training.get("learning_rate", "auto")
    return {} if rate == "auto" else {"learning_rate": rate}


def _training(params: Params, baseline: Baseline) -> dict[str, Any]:
    definition = params.trained_baselines[baseline.family]
    return definition.training(params.train.of_weights()).model_dump()
