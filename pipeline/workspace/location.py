"""Which workspace this is: the repository itself, or one of DVC's temporary copies of it.

`dvc exp run --temp` and the workers of `dvc exp run --queue` run the stages in a copy below
`.dvc/tmp/exps`, which is removed afterwards. What has to outlive it (checkpoints, metrics not yet
delivered, MLflow's default store) is kept in the repository that the copy was made from.
"""

import getpass
import os
import socket
from pathlib import Path

_COPIES = (".dvc", "tmp", "exps")


def is_temporary(folder: Path | None = None) -> bool:
    """Whether `folder` (default: the working folder) is a temporary copy of DVC's."""
    folder = folder or Path.cwd()
    return home(folder) != folder


def home(folder: Path | None = None) -> Path:
    """The repository's own root, also from within a temporary copy; absolute."""
    folder = folder or Path.cwd()
    parts = folder.parts
    for at in range(len(parts) - len(_COPIES), 0, -1):
        if parts[at : at + len(_COPIES)] == _COPIES and at + len(_COPIES) < len(parts):
            return Path(*parts[:at])
    return folder


def label() -> str:
    """Who and where, for MLflow: runs of another label are never superseded or moved.

    Two people on one server, and the experiments of two queue workers, have different ones.
    """
    # MLflow's filters quote with it.
    where = f"{_user()}@{socket.gethostname()}:{home()}".replace("'", "_")
    experiment = os.environ.get("DVC_EXP_NAME")
    return f"{where}#{experiment}" if experiment and is_temporary() else where


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number that has no name.
        return "unknown"
