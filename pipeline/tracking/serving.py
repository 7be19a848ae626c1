"""MLflow's own server on this machine, over the store that stages log to, while it is wanted."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import mlflow
import psutil

from pipeline.errors import PipelineError

PORT = 5000
"""Where `mlflow ui` serves by default."""

_TRIED = 100  # ports from PORT on
_PATIENCE = 180.0  # seconds until a server has to answer: it may have a store to migrate


@contextmanager
def serving(port: int | None = None) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """MLflow's server over the store of this process, by default at the first free port.

    Yields its address, and its process, once it answers; ends all of it in the end. Raises
    PipelineError when it does not start.
    """
    with tempfile.TemporaryFile("w+") as log:
        address, process = _started(port, log)
        try:
            yield address, process
        finally:
            _end(process)


def _started(wanted: int | None, log: IO[str]) -> "tuple[str, subprocess.Popen[bytes]]":
    while True:
        port = free_port(wanted)
        process = _start(port, log)
        try:
            if _comes_up(process, port):
                return f"http://127.0.0.1:{port}", process
        except BaseException:
            _end(process)
            raise
        # Servers that start at once find the same port free, which one of them gets.
        if _is_free(port):
            log.seek(0)
            said = [line for line in log.read().splitlines() if line.strip()]
            raise PipelineError(f"MLflow's server has ended: {said[-1] if said else 'no word'}")


def _start(port: int, log: IO[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    # No option: every user of the machine can list commands, and a store may have a password.
    store = {"MLFLOW_BACKEND_STORE_URI": mlflow.get_tracking_uri()}
    # Nothing here runs jobs on the server, whose runner takes as much memory as the server.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen(
        command,
        env={**quiet, **os.environ, **store},
        stdout=log,
        stderr=log,
        # Ctrl-C reaches this process alone, which then ends all that the server started.
        start_new_session=True,
    )


def free_port(wanted: int | None) -> int:
    """The port that is wanted, or the first free one; PipelineError where there is none."""
    if wanted is not None:
        if not _is_free(wanted):
            raise PipelineError(f"port {wanted} is taken; leave --port out for one that is free")
        return wanted
    for port in range(PORT, PORT + _TRIED):
        if _is_free(port):
            return port
    raise PipelineError(f"ports {PORT} to {PORT + _TRIED - 1} are taken; name another by --port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _comes_up(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until the server answers, or has ended; returns whether it answers."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            return False
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5),
        ):
            if _listens(process, port):
                return True
        time.sleep(0.2)
    raise PipelineError(f"MLflow's server did not answer within {_PATIENCE:.0f} seconds")


def _listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether the answer came from what this process started, and not from another server."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for each in (root, *root.children(recursive=True)):
            for connection in each.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
