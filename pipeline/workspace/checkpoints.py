"""Where a training's checkpoint lies, and what is locked while a process is at work on it."""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

FILE = "checkpoint.safetensors"
"""Its name within the training's folder."""


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it works on a checkpoint folder."""
    return folder.with_name(f".{folder.name}.lock")


def remove_checkpoints(root: Path, variant: str, keep: str | None = None) -> None:
    """Remove the checkpoints of a variant's trainings, except `keep` and those now running."""
    for folder in sorted(root.glob(f"{variant}-*")):
        if not folder.is_dir() or folder.name == keep:
            continue
        try:
            with FileLock(lock_of(folder), timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
