"""Where a training's checkpoint lies, and what is locked while a process is at work on it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FILE = "checkpoint.safetensors"
"""Its name within the training's folder."""

TRIALS = "learning_rates.json"
"""Beside it: what a search of the learning rate has found so far."""

_DIGITS = 16  # of the digest, in the folder's name
_POLL_SECONDS = 0.5


def checkpoint_name(training: str, digest: str) -> str:
    """The name of the folder of one training: that of its variant, and what it was begun with."""
    return f"{training}-{digest[:_DIGITS]}"


def study_name(self_study: str) -> str:
    """What stands for a training in the folder's name of a self-study; no variant begins so."""
    return f"self_study.{self_study}"


def document_name(what: str, document: str) -> str:
    """What stands in the folder's name for the study or a training of a document of a library."""
    return f"library.{what}.{document}"


def studies_in(root: Path) -> list[str]:
    """The self-studies of which something is kept, as `study_name` gives them."""
    return _kept_of("self_study", root)


def documents_in(root: Path) -> list[str]:
    """All of a library's of which something is kept, as `document_name` gives them."""
    return _kept_of("library", root)


def _kept_of(section: str, root: Path) -> list[str]:
    names = (_training_of(folder.name) for folder in sorted(root.glob(f"{section}.*")))
    return [name for name in dict.fromkeys(names) if name is not None]


def is_of(name: str, training: str) -> bool:
    """Whether a folder's name is one that `checkpoint_name` gives for this training.

    No other's: `len8-corpus-seed0` begins the name of `len8-corpus-seed0-train50` too.
    """
    return _training_of(name) == training


def _training_of(name: str) -> str | None:
    """The training that a folder's name is of; None for another name."""
    match = re.fullmatch(rf"(.+)-[0-9a-f]{{{_DIGITS}}}", name)
    return None if match is None else match[1]


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it works on a checkpoint folder."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def held(folder: Path, at_work: str) -> Iterator[None]:
    """Hold a folder of checkpoints for this process; wait while another process has it.

    One whose `dvc repro` was killed may still be at work in it. The operating system releases the
    lock of a process that dies. `at_work` goes on from "another process", for who waits.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting: another process {at_work}")
        lock.acquire(poll_interval=_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def remove_checkpoints(root: Path, *variants: str, keep: str | None = None) -> None:
    """Remove the checkpoints of variants' trainings, except `keep` and those now running."""
    if not root.is_dir():
        return
    removed = set(variants)
    for folder in sorted(root.iterdir()):
        if folder.name == keep or _training_of(folder.name) not in removed or not folder.is_dir():
            continue
        try:
            with FileLock(lock_of(folder), timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
