"""Which workspace this is: the repository itself, or one of DVC's temporary copies of it.

`dvc exp run --temp` and the workers of `dvc exp run --queue` run the stages in a copy below
`.dvc/tmp/exps`, which is removed afterwards. What has to outlive it (checkpoints, metrics not yet
delivered, MLflow's default store) is kept in the repository that the copy was made from.
"""

import getpass
import os
import socket
import uuid
from pathlib import Path

from filelock import FileLock

from pipeline.errors import PipelineError
from pipeline.storage.records import read_json, write_json
from pipeline.workspace import paths

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
    """The workspace's name in MLflow: runs of another label are never superseded or moved.

    Two people on one server, and the experiments of two queue workers, have different ones. It is
    made once and kept in `data/workspace.json`, so that under another host name, in a new
    container, or moved, a workspace goes on with the runs and registered models that it has. A copy
    beside its original is another workspace.
    """
    name, experiment = home_label(), os.environ.get("DVC_EXP_NAME")
    label = f"{name}#{experiment}" if experiment and is_temporary() else name
    # MLflow's filters quote with it.
    return label.replace("'", "_")


def home_label() -> str:
    """What the labels of the repository itself and of its temporary copies begin with."""
    root = home()
    try:
        name = _kept_label(root)
    except OSError:
        # Where nothing can be written a training may still go on.
        name = _new_label(root)
    return name.replace("'", "_")


def _kept_label(root: Path) -> str:
    path = root / paths.WORKSPACE
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two stages may be the first at once.
    with FileLock(path.with_name(f".{path.name}.lock")):
        known = _read(path)
        name = known.get("label")
        if name is None or _is_copied(known, path):
            name = f"{uuid.uuid4().hex[:12]} {_new_label(root)}"
        if known != (now := {"label": name, "home": str(root)}):
            write_json(path, now)
    return name


def _is_copied(known: dict[str, str], path: Path) -> bool:
    """Whether the place where the workspace was last still holds another file of its label.

    Where it is gone, or is this very place under another mount point, the workspace has moved.
    """
    last = Path(known.get("home", "")) / paths.WORKSPACE
    try:
        return _read(last).get("label") == known["label"] and not last.samefile(path)
    except OSError:
        return False


def _read(path: Path) -> dict[str, str]:
    """The texts that the file holds; none when there is none, or it is damaged."""
    if not path.exists():
        return {}
    try:
        return {key: text for key, text in read_json(path).items() if isinstance(text, str)}
    except PipelineError:
        return {}


def _new_label(root: Path) -> str:
    return f"{_user()}@{socket.gethostname()}:{root}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number that has no name.
        return "unknown"
