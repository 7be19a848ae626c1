"""Where a training's checkpoint lies, and what is locked while a process is at work on it."""

from pathlib import Path

FILE = "checkpoint.safetensors"
"""Its name within the training's folder."""


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it works on a checkpoint folder."""
    return folder.with_name(f".{folder.name}.lock")
