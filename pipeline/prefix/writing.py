"""Files that a reader meets whole: written aside, then renamed into place."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads that write the same file would take away what another has written aside.
_writing = threading.Lock()


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, and rename it into place; one thread at a time."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing:
        try:
            write(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
