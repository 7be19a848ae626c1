"""A library's measurement as a run of its own, beside the runs of the sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.tracking.runs import flatten, sha256, start_run
from pipeline.tracking.state import make_current, runs_named
from pipeline.tracking.store import open_experiment

_LOGGED = {"own": "own", "another's": "anothers", "together": "together"}


def library_run(measurement: str) -> str:
    """What the run of a measurement of `library.together` is called."""
    return f"library-{measurement}"


def log_library(
    params: Params,
    measurement: str,
    rows: Sequence[Mapping[str, Any]],
    means: Sequence[Mapping[str, Any]],
    folder: Path,
) -> str:
    """Log losses by document and round, and the tables; returns the run's id.

    The same losses find their earlier run again; others supersede it.
    """
    experiment_id, name = open_experiment(params), library_run(measurement)
    digest = sha256(folder / "losses.json")
    for run in runs_named(experiment_id, name):
        if run.data.tags.get("losses_sha256") == digest:
            make_current(experiment_id, name, run.info.run_id)
            return str(run.info.run_id)
    settings = flatten({"library": params.library.model_dump(), "model": params.model.model_dump()})
    tags = {"kind": "library", "dvc_stage": f"library_together@{measurement}"}
    run_id = start_run(experiment_id, name, settings, tags)
    losses = {
        f"{row['document']}/{row['trained']}_{logged}": row[key]
        for row in (*rows, *means)
        for key, logged in _LOGGED.items()
    }
    mlflow.log_metrics(losses, run_id=run_id)
    MlflowClient().log_artifacts(run_id, str(folder), "library")
    # Last: a run without it was cut short, and is not found again.
    MlflowClient().set_tag(run_id, "losses_sha256", digest)
    return run_id
