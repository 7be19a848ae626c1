"""From an outbox to its run in MLflow: as often as need be, with the same outcome as once."""

import os
import sys
import threading
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.tracking.context.registry import resolve_tags

from pipeline.data.splits import load_split
from pipeline.tracking.inputs import log_splits
from pipeline.tracking.outbox import Entry, Outbox, close_abandoned, pending
from pipeline.tracking.results import log_search, outcome
from pipeline.tracking.runs import log_params, sha256
from pipeline.tracking.state import is_current, make_current, runs_where
from pipeline.tracking.store import experiment_named, told

_BATCH = 1000  # metrics in one request, MLflow's limit
_PATIENCE = 20.0  # seconds that a finished training waits for its last metrics to arrive
_EVERY = 1.0  # seconds between two deliveries of a training
_LONGEST_PAUSE = 60.0  # seconds between two attempts while MLflow is in trouble


class Delivery:
    """One outbox on its way; remembers what has arrived. Raises whatever MLflow raises."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._offset = 0
        self._run_id = ""
        self._last_step = -1

    def deliver(self) -> bool:
        """Send what is new; returns whether the training has ended and all of it is delivered."""
        entries, offset = self.outbox.entries(self._offset)
        if not self._run_id and entries:
            self._find_or_create(entries[0]["run"])
        self._send_steps([entry["step"] for entry in entries if "step" in entry])
        for entry in entries:
            if "inputs" in entry:
                self._send_inputs(entry["inputs"])
        ends = [entry["end"] for entry in entries if "end" in entry]
        if ends:
            self._send_end(ends[-1])
        self._offset = offset
        return bool(ends)

    def _find_or_create(self, header: Entry) -> None:
        experiment_id = experiment_named(header["experiment"])
        client = MlflowClient()
        run = _earlier_run(experiment_id, self.outbox.token, header)
        if run is not None:
            self._run_id = str(run.info.run_id)
            client.update_run(self._run_id, status="RUNNING")
            history = client.get_metric_history(self._run_id, "train/loss")
            start = 0 if "validation/loss" in run.data.metrics else -1
            self._last_step = max([point.step for point in history], default=start)
            return
        tags = resolve_tags({**header["tags"], "outbox": self.outbox.token})
        run = client.create_run(
            experiment_id, header["start_time"], tags=tags, run_name=header["name"]
        )
        self._run_id = str(run.info.run_id)
        log_params(self._run_id, header["params"])
        name = header["tags"]["variant"]
        label = header["tags"]["workspace"]
        runs = runs_where(experiment_id, f"tags.variant = '{name}'", label)
        current = runs[0]
        if current.info.run_id != self._run_id:
            # Delivered late: a newer one is there, and one of the others current.
            others = (run for run in runs if run.info.run_id != self._run_id)
            current = next((run for run in others if is_current(run)), current)
        make_current(experiment_id, name, str(current.info.run_id), label)

    def _send_steps(self, steps: list[Entry]) -> None:
        batch: list[Metric] = []
        new = [step for step in steps if step["number"] > self._last_step]
        for index, step in enumerate(new):
            batch += [
                Metric(key, value, step["time"], step["number"])
                for key, value in step["metrics"].items()
            ]
            # Whole steps: what has arrived is told by the last step's number.
            if len(batch) > _BATCH - 20 or index == len(new) - 1:
                MlflowClient().log_batch(self._run_id, metrics=batch)
                self._last_step = step["number"]
                batch = []

    def _send_inputs(self, inputs: Entry) -> None:
        """The splits, when the folder still holds those that were trained on."""
        folder = Path(inputs["folder"])
        known = MlflowClient().get_run(self._run_id).inputs
        if (known is not None and known.dataset_inputs) or not folder.exists():
            return
        splits = {name: load_split(folder, name) for name in inputs["fingerprints"]}
        if {k: v._fingerprint for k, v in splits.items()} == inputs["fingerprints"]:
            log_splits(self._run_id, splits)

    def _send_end(self, end: Entry) -> None:
        client = MlflowClient()
        if metrics := outcome(end.get("metrics", {})):
            points = [Metric(key, value, end["time"], 0) for key, value in metrics.items()]
            client.log_batch(self._run_id, metrics=points)
        log_search(self._run_id, end.get("metrics", {}))
        if reason := end.get("reason"):
            client.set_tag(self._run_id, "failure", reason)
        elif "failure" in client.get_run(self._run_id).data.tags:
            client.delete_tag(self._run_id, "failure")  # of an interruption that was overcome
        if digest := end.get("prefix_sha256"):
            prefix = Path(end["folder"]) / "prefix.safetensors"
            # Trained again since: the files are of another run by now.
            if prefix.exists() and sha256(prefix) == digest:
                client.log_artifact(self._run_id, str(prefix), "prefix")
                client.log_artifact(self._run_id, str(prefix.with_name("history.csv")))
            client.set_tag(self._run_id, "prefix_sha256", digest)
        client.set_terminated(self._run_id, end["status"], end["time"])


def deliver_pending(variant: str | None = None) -> None:
    """Deliver every outbox whose training is over, or those of one variant.

    Raises whatever MLflow raises; what is not delivered is kept.
    """
    close_abandoned()
    for outbox in pending(variant):
        with outbox.claimed() as is_ours:
            if is_ours and outbox.has_ended() and Delivery(outbox).deliver():
                outbox.remove()


class Courier(threading.Thread):
    """Delivers one training's outbox while it trains, and before it what others left behind.

    A thread of its own: however slow MLflow is, the training waits for nothing until its end, and
    there no longer than `_PATIENCE` seconds.
    """

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(name="mlflow-delivery", daemon=True)
        self._outbox = outbox
        self._ending = threading.Event()
        self._has_tidied = False
        self._warned = False
        self.is_delivered = False

    def run(self) -> None:
        """Deliver until the end is delivered, or the process is gone."""
        pause = _EVERY
        delivery = Delivery(self._outbox)
        with self._outbox.claimed() as is_ours:
            if not is_ours:
                return
            while True:
                was_ending = self._ending.is_set()
                try:
                    if not self._has_tidied:
                        deliver_pending()
                        self._has_tidied = True
                    self.is_delivered = delivery.deliver()
                    pause = _EVERY
                except Exception as error:  # MLflow's stores and servers raise all kinds
                    self._warn(error)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                if self.is_delivered:
                    self._outbox.remove()
                if self.is_delivered or was_ending:
                    return
                self._ending.wait(pause)

    def finish(self) -> None:
        """Give the last entries their time to arrive; what does not is delivered another day."""
        self._ending.set()
        if self.is_alive():
            self.join(_PATIENCE)
        if not self.is_delivered:
            self._warn(None)

    def _warn(self, error: Exception | None) -> None:
        if self._warned:
            return
        self._warned = True
        reason = "no answer in time" if error is None else told(error)
        print(
            f"warning: MLflow is out of reach ({reason}); what it lacks is kept in "
            f"{_shown(self._outbox.path.parent)} and delivered by the next training or report",
            file=sys.stderr,
        )


def _earlier_run(experiment_id: str, token: str, header: Entry) -> Run | None:
    """The run that an earlier attempt at this delivery made, or the one that training resumes."""
    label = header["tags"]["workspace"]
    made = runs_where(experiment_id, f"tags.outbox = '{token}'", label)
    if made or not header.get("resumes"):
        return made[0] if made else None
    digest = header["tags"]["training_digest"]
    resumable = [
        run
        for run in runs_where(experiment_id, f"tags.training_digest = '{digest}'", label)
        if run.info.status != "FINISHED"
    ]
    return resumable[0] if resumable else None


def _shown(path: Path) -> str:
    return os.path.relpath(path)
