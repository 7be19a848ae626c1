"""Starts `python -m ...` in milliseconds, by forking a process that has imported the libraries.

A stage of a test's tiny workspace computes for a moment, after seconds of importing torch,
transformers and MLflow. `commands()` is a folder for the front of PATH whose `python` (shim.py)
has a server (server.py) fork a child in its place. `REAL_PYTHON=1` switches this off.
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


@functools.cache
def commands() -> Path | None:
    """The folder with the forking `python`; None where only real interpreters are started.

    The first call starts the server, which ends with this process, however that ends.
    """
    # Elsewhere frameworks of the system do not outlive a fork.
    if os.environ.get("REAL_PYTHON") or sys.platform != "linux":
        return None
    # Not below pytest's folders: a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="forking-"))
    address = folder / "socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "PYTHONPATH"):
        environment.pop(name, None)
    with socket.socket(socket.AF_UNIX) as listener:
        # Whoever comes while the server still imports waits to be accepted.
        listener.bind(str(address))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(_HERE / "server.py"), str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[listener.fileno()],
            # Its own signals: Ctrl-C is for the tests, which end it.
            start_new_session=True,
        )
    atexit.register(_stop, server, folder)
    python = folder / "python"
    shim = (sys.executable, "-IS", str(_HERE / "shim.py"), str(address), sys.executable)
    python.write_text(f'#!/bin/sh\nexec {shlex.join(shim)} "$@"\n')
    python.chmod(0o755)
    return folder


def _stop(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    server.communicate()  # closes its standard input, the sign to end
    shutil.rmtree(folder, ignore_errors=True)
