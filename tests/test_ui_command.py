"""`python -m pipeline ui` in one sentence where there is nothing to show, and no traceback."""

import socket
import webbrowser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.store.db import utils

from pipeline.cli.main import main
from pipeline.errors import PipelineError
from pipeline.tracking import serving
from tests.conftest import Workspace, tiny_params

pytestmark = pytest.mark.real


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Workspace(tmp_path).write(tiny_params(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def called(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ui", *arguments])


def test_before_anything_is_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = (
        "error: nothing has been logged to MLflow yet; run `make repro` (or `dvc repro`) first"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    assert nothing in called().output
    # Asking makes no store.
    assert not (folder / "mlflow.db").exists()
    MlflowClient().create_experiment("tiny")
    found = called()
    assert nothing in found.output
    assert found.exit_code == 1


def test_a_store_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = "postgresql+psycopg2://someone:secret@127.0.0.1:9/runs?connect_timeout=1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)  # its patience is a minute
    found = called()
    assert found.exit_code == 1
    assert "error: MLflow's store postgresql+psycopg2://…@127.0.0.1:9/runs" in found.output
    assert "secret" not in found.output
    assert "Traceback" not in found.output


def test_a_server_elsewhere_is_named_and_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking import ui

    opened: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://runs.example.org/")
    monkeypatch.setattr(ui, "_experiment", lambda _: "7")
    monkeypatch.setattr(webbrowser, "open", opened.append)
    found = called("--browser")
    assert found.exit_code == 0
    (page,) = opened
    assert page.startswith("https://runs.example.org/#/experiments/7/runs?")
    assert page in found.output


def test_a_taken_port(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PipelineError, match=f"port {taken} is taken"):
            serving.free_port(taken)


def test_the_first_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", taken)
        assert taken < serving.free_port(None) < taken + 100


def test_a_server_that_ends_at_once_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchstore://x")
    with (
        pytest.raises(PipelineError, match="nosuchstore"),
        serving.serving(serving.free_port(None)),
    ):
        pass
