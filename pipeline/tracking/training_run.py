"""A variant's run while it trains: step metrics live, then the trained prefix."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlflow
from datasets import Dataset
from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline.config import Params
from pipeline.data.splits import load_split
from pipeline.storage.records import read_csv, read_json
from pipeline.sweep.variants import Variant
from pipeline.tracking.delivery import Courier
from pipeline.tracking.inputs import log_splits
from pipeline.tracking.outbox import Outbox, close_abandoned, failed, now
from pipeline.tracking.results import log_search, outcome
from pipeline.tracking.runs import run_tags, sha256, start_run, variant_params, variant_tags
from pipeline.tracking.store import open_experiment
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import FILE, TRIALS, checkpoint_name
from pipeline.workspace.timings import read_timing


class TrainingRun:
    """Mirrors one training to MLflow, through an outbox: a training never waits for MLflow.

    As a context it ends the run: as finished after `finish`, else as failed, with the reason. A
    training that goes on from its checkpoint goes on with its run too.
    """

    def __init__(
        self, params: Params, variant: Variant, digest: str, splits: Mapping[str, Dataset]
    ) -> None:
        training = checkpoint_name(variant.name, digest)
        self._every = params.mlflow.log_every_steps
        self._outbox = Outbox.of_training(training)
        self._courier: Courier | None = None
        self._has_ended = False
        known = self._outbox.entries()[0]
        self._logged = {entry["step"]["number"] for entry in known if "step" in entry}
        if known:
            return
        kept = location.home() / paths.CHECKPOINTS / training
        tags = run_tags(variant.name, {**variant_tags(variant), "training_digest": digest})
        self._append(
            "run",
            {
                "experiment": params.mlflow.experiment,
                "name": variant.name,
                "params": {k: str(v) for k, v in variant_params(params, variant).items()},
                "tags": tags,
                "start_time": now(),
                "resumes": any((kept / file).exists() for file in (FILE, TRIALS)),
            },
        )
        fingerprints = {name: split._fingerprint for name, split in splits.items()}
        folder = str((paths.TOKENIZED / "splits").resolve())
        self._append("inputs", {"folder": folder, "fingerprints": fingerprints})

    def __enter__(self) -> Self:
        close_abandoned(except_for=self._outbox.training)
        self._courier = Courier(self._outbox)
        self._courier.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._has_ended:
            reason = str(error).strip() or (kind.__name__ if kind else "ended without a result")
            self._append("end", failed(reason))
        if self._courier is not None:
            self._courier.finish()

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one optimizer step's metrics (every `mlflow.log_every_steps`, and validations)."""
        if step % self._every and "validation/loss" not in metrics:
            return
        if step not in self._logged:
            self._append("step", {"number": step, "time": now(), "metrics": dict(metrics)})

    def finish(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Attach the prefix in `folder`, tie the run to it by checksum, and end the run."""
        end = {
            "status": "FINISHED",
            "time": now(),
            "metrics": dict(metrics),
            "folder": str(folder.resolve()),
            "prefix_sha256": sha256(folder / "prefix.safetensors"),
        }
        self._append("end", end)
        self._has_ended = True

    def _append(self, kind: str, value: Mapping[str, object]) -> None:
        try:
            self._outbox.append(kind, value)
        except OSError as error:
            # The history of the training is in its outputs all the same.
            print(f"warning: nothing kept for MLflow ({error})", file=sys.stderr)


def log_training_from_files(params: Params, variant: Variant, folder: Path) -> str:
    """A run for a training whose files DVC restored without running it; returns its id."""
    run_id = start_run(
        open_experiment(params),
        variant.name,
        variant_params(params, variant),
        {**variant_tags(variant), "restored": "true"},
        read_timing(variant.name).get("training_seconds"),
    )
    log_history(run_id, folder)
    tokenized = paths.TOKENIZED / "splits"
    splits = {name: load_split(tokenized, name) for name in ("train", "validation")}
    log_splits(run_id, splits)
    _log_outcome(run_id, folder, read_json(folder / "metrics.json"))
    return run_id


def log_history(run_id: str, folder: Path) -> None:
    """The step metrics of a finished training: the columns of its `history.csv` but `step`."""
    history = read_csv(folder / "history.csv")
    points = [
        Metric(str(key), float(value), 0, int(row["step"]))
        for row in history.to_dict("records")
        for key, value in row.items()
        if key != "step" and value == value  # NaN: no validation at this step
    ]
    for start in range(0, len(points), 1000):
        MlflowClient().log_batch(run_id, metrics=points[start : start + 1000])


def _log_outcome(run_id: str, folder: Path, metrics: Mapping[str, Any]) -> None:
    client, prefix = MlflowClient(), folder / "prefix.safetensors"
    mlflow.log_metrics(outcome(metrics), run_id=run_id)
    log_search(run_id, metrics)
    client.log_artifact(run_id, str(prefix), "prefix")
    client.log_artifact(run_id, str(folder / "history.csv"))
    client.set_tag(run_id, "prefix_sha256", sha256(prefix))
