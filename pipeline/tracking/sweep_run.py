"""The sweep's own run: parent of the current runs, with the summary table and the plots."""

from collections.abc import Iterable
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.tracking.runs import flatten, make_current, runs_named, sha256, start_run
from pipeline.tracking.store import open_experiment
from pipeline.tracking.view import comparison_url

SWEEP = "sweep"


def log_sweep(params: Params, report: Path, timed: Iterable[Path], children: Iterable[str]) -> str:
    """Log the report folder, and files of timings, on the sweep's run; hang `children` below it.

    A report with the same summary as an earlier one finds that run again; a new one supersedes
    it. Returns the run's id.
    """
    experiment_id = open_experiment(params)
    digest = sha256(report / "summary.csv")
    known = [
        run
        for run in runs_named(experiment_id, SWEEP)
        if run.data.tags.get("summary_sha256") == digest
    ]
    if known:
        run_id = str(known[0].info.run_id)
        make_current(experiment_id, SWEEP, run_id)
    else:
        settings = flatten(params.model_dump(include={"sweep", "report", "model", "data"}))
        run_id = start_run(experiment_id, SWEEP, settings, {"kind": SWEEP})
    with mlflow.start_run(run_id=run_id):
        mlflow.log_artifacts(str(report), "report")
        for path in timed:
            mlflow.log_artifact(str(path), "timings")
        # Last: a run without it was cut short, and is not found again.
        mlflow.set_tag("summary_sha256", digest)
    client = MlflowClient()
    for child in children:
        if client.get_run(child).data.tags.get("mlflow.parentRunId") != run_id:
            client.set_tag(child, "mlflow.parentRunId", run_id)
    url = comparison_url(params, experiment_id)
    # MLflow shows this tag as the experiment's description.
    note = f"[Compare the current runs]({url})"
    client.set_experiment_tag(experiment_id, "mlflow.note.content", note)
    print(f"All runs side by side, after `mlflow ui`: {url}")
    return run_id
