"""Checksums of the files in `data`, each computed once for as long as its file stays as it is.

The frozen model is what every training and every run in MLflow is tied to, and it is large. What
was computed is remembered beside it, for every process of this workspace, in `data/checksums.json`.
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import read_json
from pipeline.workspace import location, paths

_SMALL = 2**20  # bytes; what is smaller is read sooner than it is looked up

# A file that has just been written may be written again within one tick of its clock.
_SETTLED_AFTER = 2.0  # seconds


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal; of a large one that has not changed, as remembered.

    Whether it has changed is told as git tells it: by its size, its inode, and when it and its
    inode were written last. No program can set the last of these back.
    """
    state = _state(path)
    # Not resolved: `data`, or a file in it as DVC links it, may be on another disk.
    whole = path.absolute()
    if state["size"] < _SMALL or not whole.is_relative_to(location.home() / paths.DATA):
        return _computed(path)
    known = _remembered().get(str(whole))
    if isinstance(known, dict) and known.get("state") == state:
        return str(known["sha256"])
    began = time.time()
    checksum = _computed(path)
    written = max(state["modified_ns"], state["changed_ns"]) / 1e9
    if _state(path) == state and began - written > _SETTLED_AFTER:
        _remember(whole, {"state": state, "sha256": checksum})
    return checksum


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "size": found.st_size,
        "inode": found.st_ino,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,
    }


def _computed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory() -> Path:
    return location.home() / paths.CHECKSUMS


def _remembered() -> dict[str, Any]:
    path = _memory()
    # Damaged: nothing depends on it, and the next write replaces it.
    with contextlib.suppress(PipelineError):
        return read_json(path) if path.exists() else {}
    return {}


def _remember(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry, and drop those of files that are gone.

    Of two processes that do so at once one may lose its entry, which is then computed again.
    """
    known = {name: each for name, each in _remembered().items() if Path(name).exists()}
    known[str(path)] = entry
    # Where nothing can be written, all is computed each time.
    with contextlib.suppress(OSError), atomic_file(_memory()) as aside:
        aside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def add_file(digest: "hashlib._Hash", path: Path, name: Path) -> None:
    """Let a digest go by a file's content and by what it is called."""
    digest.update(f"{name.as_posix()} {sha256_of(path)}\n".encode())


def add_folder(digest: "hashlib._Hash", folder: Path) -> None:
    """Let a digest go by all files below a folder, called by their paths in it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        add_file(digest, path, path.relative_to(folder))
