"""Failures of the disk, injected into what this process writes below a folder."""

import builtins
import errno
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.training.aside import THREAD

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Faults:
    """Counts opening for writing, writing, renaming, making folders and fsync; the n-th fails."""

    def __init__(self, folder: Path, failing: int | None, error: int = errno.ENOSPC) -> None:
        self.folder = str(folder.resolve())
        self.failing = failing
        self.error = error
        self.operations: list[str] = []

    def note(self, what: str, path: Any) -> None:
        """Count one operation on a path below the folder; raise if it is due.

        Those of the main thread, and of the one that writes checkpoints.
        """
        thread = threading.current_thread()
        if thread is not threading.main_thread() and thread.name != THREAD:
            return
        if isinstance(path, int):
            return
        if not str(Path.cwd() / path).startswith(self.folder):
            return
        self.operations.append(f"{what} {Path(path).name}")
        if len(self.operations) == self.failing:
            raise OSError(self.error, os.strerror(self.error), os.fspath(path))


class _File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, path: Any, faults: Faults) -> None:
        self._file, self._path, self._faults = file, path, faults

    def write(self, content: Any) -> Any:
        self._faults.note("write", self._path)
        return self._file.write(content)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        return self._file.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def injected(faults: Faults) -> Iterator[Faults]:
    """Let the operations of `faults` pass through it."""
    real_open, real_fsync = io.open, os.fsync

    def opening(path: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(path, mode, *arguments, **keywords)
        faults.note("open", path)
        return _File(real_open(path, mode, *arguments, **keywords), path, faults)

    def counted(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
            faults.note(what, path)
            return real(path, *arguments, **keywords)

        return call

    def fsync(descriptor: int) -> None:
        if isinstance(descriptor, int):
            faults.note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
        real_fsync(descriptor)

    with ExitStack() as patches:
        for target, name, replacement in (
            (io, "open", opening),
            (builtins, "open", opening),
            (os, "fsync", fsync),
            (os, "replace", counted("replace", os.replace)),
            (os, "rename", counted("rename", os.rename)),
            (os, "mkdir", counted("mkdir", os.mkdir)),
        ):
            patches.enter_context(patch.object(target, name, replacement))
        yield faults


def errors() -> Iterator[int]:
    """The kinds of error, one after another without end."""
    return itertools.cycle(ERRORS)
