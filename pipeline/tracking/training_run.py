"""A variant's run while it trains: step metrics live, then the trained prefix."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Params
from pipeline.records import read_csv, read_json
from pipeline.tracking.runs import sha256, start_run, variant_params, variant_tags
from pipeline.tracking.store import never_fatal, open_experiment
from pipeline.variants import Variant

if TYPE_CHECKING:
    from datasets import Dataset

STEP_METRICS = ("train/loss", "train/learning_rate", "train/gradient_norm", "validation/loss")
"""The columns of history.csv after `step`, under the names that MLflow shows."""


class TrainingRun:
    """Mirrors one training to MLflow; when MLflow fails, training goes on without it."""

    def __init__(self, params: Params, variant: Variant) -> None:
        self._every = params.mlflow.log_every_steps
        self._run_id: str | None = None
        with never_fatal("start the variant's run"):
            self._run_id = start_run(
                open_experiment(params),
                variant.name,
                variant_params(params, variant),
                variant_tags(variant),
            )

    def log_data(self, splits: Mapping[str, "Dataset"]) -> None:
        """Record the tokenized splits as the run's inputs."""
        if self._run_id is None:
            return
        with never_fatal("log the data"):
            _log_inputs(self._run_id, splits)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one optimizer step's metrics (every `mlflow.log_every_steps`, and validations)."""
        if self._run_id is None or (step % self._every and "validation/loss" not in metrics):
            return
        run_id, self._run_id = self._run_id, None
        with never_fatal("log a training step"):
            import mlflow

            mlflow.log_metrics(dict(metrics), step=step, run_id=run_id)
            # Not reached after a failure: one warning is enough, and waiting at every step is not.
            self._run_id = run_id

    def finish(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Attach the prefix in `folder`, tie the run to it by checksum, and end the run."""
        if self._run_id is None:
            return
        with never_fatal("log the trained prefix"):
            _log_outcome(self._run_id, folder, metrics)

    def fail(self) -> None:
        """Mark the run as failed, so that nothing looks as if it were still running."""
        if self._run_id is None:
            return
        with never_fatal("mark the run as failed"):
            from mlflow import MlflowClient

            MlflowClient().set_terminated(self._run_id, "FAILED")


def log_training_from_files(
    params: Params, variant: Variant, folder: Path, splits: Mapping[str, "Dataset"]
) -> str:
    """A run for a training whose files DVC restored without running it; returns its id."""
    run_id = start_run(
        open_experiment(params),
        variant.name,
        variant_params(params, variant),
        {**variant_tags(variant), "restored": "true"},
    )
    log_history(run_id, folder)
    _log_inputs(run_id, splits)
    _log_outcome(run_id, folder, read_json(folder / "metrics.json"))
    return run_id


def log_history(run_id: str, folder: Path) -> None:
    """The step metrics of a finished training, from its `history.csv`."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    history = read_csv(folder / "history.csv")
    points = [
        Metric(key, float(row[key]), 0, int(row["step"]))
        for row in history.to_dict("records")
        for key in STEP_METRICS
        if row[key] == row[key]  # NaN: no validation at this step
    ]
    for start in range(0, len(points), 1000):
        MlflowClient().log_batch(run_id, metrics=points[start : start + 1000])


def _log_inputs(run_id: str, splits: Mapping[str, "Dataset"]) -> None:
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    with mlflow.start_run(run_id=run_id):
        for name, split in splits.items():
            table = split.select_columns(["id", "input", "target"]).to_pandas()
            # The content's own fingerprint: the same data is the same digest on every machine.
            data = from_pandas(table, name=name, digest=split._fingerprint)
            mlflow.log_input(data, context="training" if name == "train" else name)


def _log_outcome(run_id: str, folder: Path, metrics: Mapping[str, float]) -> None:
    import mlflow

    prefix = folder / "prefix.safetensors"
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics(dict(metrics))
        mlflow.log_artifact(str(prefix), "prefix")
        mlflow.log_artifact(os.fspath(folder / "history.csv"))
        mlflow.set_tag("prefix_sha256", sha256(prefix))
