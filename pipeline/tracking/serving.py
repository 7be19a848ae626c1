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

from pipeline.errors import PipelineError

PORT = 5000
"""Where `mlflow ui` serves by default."""

_TRIED = 100  # ports from PORT on
_PATIENCE = 180.0  # seconds until a server has to answer: it may have a store to migrate


@contextmanager
def serving(port: int) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """MLflow's server over the store of this process.

    Yields its address, and its process, once it answers; ends all of it in the end. Raises
    PipelineError when it does not start.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", mlflow.get_tracking_uri()]
    # Nothing here runs jobs on the server, whose runner takes as much memory as the server.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            env={**quiet, **os.environ},
            stdout=log,
            stderr=log,
            # Ctrl-C reaches this process alone, which then ends all that the server started.
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await(address, process, log)
            yield address, process
        finally:
            _end(process)


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


def _await(address: str, process: "subprocess.Popen[bytes]", log: IO[str]) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            log.seek(0)
            said = [line for line in log.read().splitlines() if line.strip()]
            raise PipelineError(f"MLflow's server has ended: {said[-1] if said else 'no word'}")
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{address}/health", timeout=5),
        ):
            return
        time.sleep(0.2)
    raise PipelineError(f"MLflow's server did not answer within {_PATIENCE:.0f} seconds")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
