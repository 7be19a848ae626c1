"""`python -m pipeline ui` in one sentence where there is nothing to show, and no traceback."""

import signal
import socket
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.store.db import utils

from pipeline.cli.main import main
from pipeline.errors import PipelineError
from pipeline.tracking import serving, store, view
from tests.conftest import ROOT, Workspace, tiny_params

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
    database = "postgresql+psycopg2://someone:secret@127.0.0.1:9/runs?connect_timeout=1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)  # its patience is a minute
    found = called()
    assert found.exit_code == 1
    assert "error: MLflow's store postgresql+psycopg2://…@127.0.0.1:9/runs" in found.output
    assert "secret" not in found.output
    assert "Traceback" not in found.output


def test_no_password_of_a_server_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in the address that is printed, nor in what MLflow's errors repeat of it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = called()
    assert found.exit_code == 1
    assert "error: MLflow's store http://…@127.0.0.1:9/ cannot be read" in found.output
    with store.never_fatal("log"):
        MlflowClient().get_experiment_by_name("tiny")
    warning = capsys.readouterr().err
    assert "could not log in MLflow (API request to http://…@127.0.0.1:9/" in warning
    assert view.told_way("7").startswith(
        "All runs side by side: http://127.0.0.1:9/#/experiments/7"
    )
    assert "secret" not in found.output + warning + view.told_way("7")
    # What looks like one in the path of a file is none.
    path = "sqlite:////home/me@work/mlflow.db"
    assert store.without_password(path) == path


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


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


_SERVER = """
import sys
from tests.test_ui_command import ThreadingHTTPServer, _Healthy
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Healthy).serve_forever()
"""


def test_servers_that_start_at_once_get_a_port_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the same one free, and the second is no part of the first."""

    def start(port: int, log: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", _SERVER, str(port)]
        return subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
        )

    first = ThreadingHTTPServer(("127.0.0.1", 0), _Healthy)
    taken, free_port = first.server_port, serving.free_port
    found_free = iter([taken])
    monkeypatch.setattr(
        serving, "free_port", lambda wanted: next(found_free, None) or free_port(wanted)
    )
    monkeypatch.setattr(serving, "_start", start)
    threading.Thread(target=first.serve_forever, daemon=True).start()
    with serving.serving() as (address, process):
        assert address != f"http://127.0.0.1:{taken}"
        assert process.poll() is None
    assert process.poll() is not None
    first.shutdown()
    first.server_close()


def test_a_closed_terminal_ends_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a session of its own, and would go on for good."""
    from pipeline.tracking import ui

    ended: list[bool] = []

    def wait() -> None:
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        signal.raise_signal(signal.SIGHUP)

    @contextmanager
    def serve(_: int | None) -> Iterator[tuple[str, SimpleNamespace]]:
        try:
            yield "http://127.0.0.1:1", SimpleNamespace(wait=wait)
        finally:
            ended.append(True)

    monkeypatch.setattr(ui, "_experiment", lambda _: "7")
    monkeypatch.setattr(ui, "serving", serve)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        found = called("--no-browser")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found.exit_code == 0, found.output
    assert ended == [True]


def test_a_server_that_ends_at_once_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuchstore://x")
    with (
        pytest.raises(PipelineError, match="nosuchstore"),
        serving.serving(),
    ):
        pass
