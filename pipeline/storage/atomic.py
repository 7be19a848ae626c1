"""Writing aside and renaming, so that nothing half-written ever stands in place of good output.

What is written is on the disk before it gets its name, and the name is on the disk before the
writer goes on: a machine that loses its power has the old output or the new one. What a killed
process left beside its target is removed by the next write of that target.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it replaces `path`, else it is removed.

    Raises OSError when the disk is full or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    aside = _aside(path)
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync_folder(path.parent)
    finally:
        # A failing disk may refuse this too; the reason worth telling is the first.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path`, else it is removed.

    A folder that holds files cannot be renamed over. The old one steps aside first and comes back
    when the new one cannot take its place; a process killed between the two renames leaves no
    output, which DVC takes for a stage to run again, and never a mixture.

    Raises OSError when the disk is full or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    aside = _aside(path)
    try:
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync(file)
            else:
                _sync_folder(file)
        _sync_folder(aside)
        _put_in_place(aside, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that are gone left beside `path`."""
    for leftover in path.parent.glob(f".{_escaped(path.name)}.*{_SUFFIX}"):
        owner = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)-\w+{_SUFFIX}", leftover.name)
        if owner is None or _is_running_elsewhere(int(owner[1])):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _put_in_place(aside: Path, path: Path) -> None:
    if not path.exists():
        aside.replace(path)
        return
    old = _aside(path)
    path.replace(old)
    try:
        aside.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}")


def _is_running_elsewhere(process: int) -> bool:
    import psutil

    # A process that was killed may have had the number that this one has now.
    return process != os.getpid() and bool(psutil.pid_exists(process))


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk; Windows neither can nor needs to."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
