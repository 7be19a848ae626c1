"""MLflow in trouble costs no training, and what it missed is delivered once it is back."""

import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.config import load_params
from pipeline.stages import train
from pipeline.tracking import delivery
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.runs import run_tags
from pipeline.workspace import paths
from tests.conftest import ROOT, Workspace
from tests.faults.tracking_server import troubled_server
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    outs,
    write_params,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder, and an MLflow store beside it that has been used before."""
    folder = tmp_path_factory.mktemp("mlflow")
    make_training_folder(folder)
    MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").create_experiment("tiny")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(delivery, "_PATIENCE", 1.0)
    return tmp_path


def store(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def runs(folder: Path) -> list[Any]:
    client = MlflowClient(tracking_uri=store(folder))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def deliver_all(folder: Path) -> None:
    """As a report does; a courier that is still at it may come first."""
    for _ in range(60):
        delivery.deliver_pending()
        if not list((folder / paths.OUTBOX).glob("*.jsonl")):
            return
        time.sleep(0.5)
    raise AssertionError("the outbox is not delivered")


def refuse_incomplete(folder: Path, steps: int = 24) -> Any:
    """There is one run, with all that a training logs; returns it."""
    (run,) = runs(folder)
    client = MlflowClient(tracking_uri=store(folder))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == VARIANT.name
    assert run.data.params["train.learning_rate"] == "0.005"
    assert "failure" not in run.data.tags
    assert len(run.data.tags["prefix_sha256"]) == 64
    assert run.data.metrics["train/best_step"] <= steps
    for name in ("train/loss", "train/tokens_per_second"):
        points = client.get_metric_history(run.info.run_id, name)
        assert sorted(point.step for point in points) == list(range(1, steps + 1))
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {"train", "validation"}
    assert {"prefix", "history.csv"} <= {
        item.path for item in client.list_artifacts(run.info.run_id)
    }
    return run


@pytest.mark.parametrize("trouble", ["refusing", "failing", "silent"])
def test_a_server_that_is_down_from_start_to_end(
    folder: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with troubled_server(trouble) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        began = time.perf_counter()
        train.run(load_params(), VARIANT)
        assert time.perf_counter() - began < 60
    assert set(outs(folder)) == {"prefix.safetensors", "history.csv", "metrics.json"}
    assert "warning: MLflow is out of reach" in capsys.readouterr().err
    assert list((folder / paths.OUTBOX).glob("*.jsonl"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(folder))
    deliver_all(folder)
    refuse_incomplete(folder)
    delivery.deliver_pending()
    assert len(runs(folder)) == 1


def test_a_locked_sqlite_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(folder))
    blocker = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    train.run(load_params(), VARIANT)
    assert list((folder / paths.OUTBOX).glob("*.jsonl"))
    blocker.execute("ROLLBACK")
    blocker.close()
    deliver_all(folder)
    refuse_incomplete(folder)


def test_a_run_whose_process_is_gone_ends_as_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(folder))
    outbox = Outbox.of_training(f"{VARIANT.name}-0123456789abcdef")
    header = {"experiment": "tiny", "name": VARIANT.name, "params": {"a": "1"}, "start_time": 1}
    tags = run_tags(VARIANT.name, {"training_digest": "0123"})
    outbox.append("run", header | {"tags": tags, "resumes": False})
    delivery.Delivery(outbox).deliver()
    assert runs(folder)[0].info.status == "RUNNING"
    with outbox.path.open("a") as file:
        file.write('{"step": {"numb')  # power was lost here
    delivery.deliver_pending()
    (run,) = runs(folder)
    assert run.info.status == "FAILED"
    assert "the process was killed" in run.data.tags["failure"]


def start_training(folder: Path) -> "subprocess.Popen[str]":
    command = ["python", "-m", "pipeline", "train", "--length", str(VARIANT.length)]
    command += ["--initialization", VARIANT.initialization, "--seed", str(VARIANT.seed)]
    environment = {
        **Workspace(folder).environment,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": store(folder),
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_new_checkpoint(folder: Path, before: float) -> float:
    for _ in range(3000):
        for path in (folder / paths.CHECKPOINTS).glob("*/checkpoint.safetensors"):
            if path.stat().st_mtime > before:
                return path.stat().st_mtime
        time.sleep(0.02)
    raise AssertionError("no checkpoint within a minute")


def test_stopped_killed_and_ended_it_is_one_run(folder: Path) -> None:
    params = faulty_params(Path("inputs/model"))
    params["train"]["max_steps"] = 200
    params["checkpoints"] = {"every_steps": 10}
    write_params(folder, params)
    written = 0.0
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start_training(folder)
        written = wait_for_new_checkpoint(folder, written)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        if number == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert "error: stopped by SIGTERM after step" in errors
            assert "`dvc repro` goes on from there" in errors
            (run,) = runs(folder)
            assert run.info.status == "FAILED"
            assert "stopped by SIGTERM" in run.data.tags["failure"]
            written = time.time()
        else:
            assert process.returncode == -signal.SIGKILL
    process = start_training(folder)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "going on after step" in output
    assert refuse_incomplete(folder, steps=200).info.run_id == run.info.run_id
