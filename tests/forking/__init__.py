"""Starts `python -m ...` and `dvc` in milliseconds, by forking a process that has imported them.

A stage of a test's tiny workspace computes for a moment, after seconds of importing torch,
transformers and MLflow; DVC decides in a moment what is to run, after seconds of importing itself.
`commands()` is a folder for the front of PATH whose `python` and `dvc` (shim.py) each have a server
(server.py) fork a child in their place. `REAL_PYTHON=1` switches this off.
"""

import atexit
import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# What the real interpreter is given before a command's own arguments.
_COMMANDS = {"python": (), "dvc": ("-m", "dvc")}


@functools.cache
def commands() -> Path | None:
    """The folder with the forking `python` and `dvc`; None where only real ones are started.

    The first call starts the servers, which end with this process, however that ends.
    """
    # Elsewhere frameworks of the system do not outlive a fork.
    if os.environ.get("REAL_PYTHON") or sys.platform != "linux":
        return None
    # Not below pytest's folders: a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="forking-"))
    atexit.register(_stop, [_start(folder, name) for name in _COMMANDS], folder)
    return folder


def _start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    """The server of a command, which is in the folder then."""
    address = folder / f"{name}.socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for variable in ("MLFLOW_TRACKING_URI", "PYTHONPATH"):
        environment.pop(variable, None)
    with socket.socket(socket.AF_UNIX) as listener:
        # Whoever comes while the server still imports waits to be accepted.
        listener.bind(str(address))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(_HERE / "server.py"), str(listener.fileno()), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[listener.fileno()],
            # Its own signals: Ctrl-C is for the tests, which end it.
            start_new_session=True,
        )
    shim = (sys.executable, "-IS", str(_HERE / "shim.py"), str(address), sys.executable)
    command = folder / name
    command.write_text(f'#!/bin/sh\nexec {shlex.join([*shim, *_COMMANDS[name]])} "$@"\n')
    command.chmod(0o755)
    return server


def _stop(servers: "list[subprocess.Popen[bytes]]", folder: Path) -> None:
    for server in servers:
        server.communicate()  # closes its standard input, the sign to end
    shutil.rmtree(folder, ignore_errors=True)
