"""What is to reach MLflow about one training, kept in a file until it is there.

JSON lines, only ever appended to; each line is an object with one key that says what it is:

`run`     the run to make: experiment, name, params, tags, start_time (ms)
`inputs`  the tokenized splits: their folder, and the fingerprint of each
`step`    one optimizer step's metrics: number, time (ms), metrics
`end`     how it ended: status, time (ms), reason, metrics, and the folder of what was trained

A line that a killed process left unfinished is not believed.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import is_of, lock_of

Entry = dict[str, Any]


class Outbox:
    """One file. `training` is the name of the training's checkpoint folder (variant and digest)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_training(cls, training: str) -> "Outbox":
        """The outbox that an interrupted process of this training left open, or a new one."""
        for outbox in pending():
            if outbox.training == training and not outbox.has_ended():
                return outbox
        name = f"{training}.{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        return cls(_root() / name)

    @property
    def training(self) -> str:
        """The training that it is about."""
        return self.path.name.rsplit(".", 2)[0]

    @property
    def token(self) -> str:
        """Ties a run in MLflow to this file, so that it is never made twice."""
        return self.path.name.rsplit(".", 2)[1]

    def append(self, kind: str, value: Mapping[str, Any]) -> None:
        """Add an entry. Raises OSError when the disk refuses."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({kind: value}).encode() + b"\n"
        with self.path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)

    def entries(self, start: int = 0) -> tuple[list[Entry], int]:
        """All whole entries from a byte offset on, and the offset behind the last of them."""
        if not self.path.exists():
            return [], start
        with self.path.open("rb") as file:
            file.seek(start)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        return [entry for line in whole.splitlines() if (entry := _parsed(line))], start + len(
            whole
        )

    def has_ended(self) -> bool:
        """Whether its training is over, well or not."""
        return any("end" in entry for entry in self.entries()[0])

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether this process alone may deliver it now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
            if not self.path.exists():
                Path(lock.lock_file).unlink(missing_ok=True)

    def remove(self) -> None:
        """It has been delivered."""
        self.path.unlink(missing_ok=True)


def pending(variant: str | None = None) -> list[Outbox]:
    """Every outbox, or those of one variant's trainings, oldest first."""
    found = sorted(map(Outbox, _root().glob("*.jsonl")), key=lambda outbox: outbox.token)
    return [outbox for outbox in found if variant is None or is_of(outbox.training, variant)]


def close_abandoned(except_for: str = "") -> None:
    """End the outboxes of trainings that nobody is at work on: their processes were killed."""
    checkpoints = location.home() / paths.CHECKPOINTS
    for outbox in pending():
        if outbox.training == except_for or outbox.has_ended():
            continue
        checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock_of(checkpoints / outbox.training), timeout=0):
                outbox.append("end", failed("the process was killed, or the machine stopped"))
        except Timeout:
            continue


def failed(reason: str) -> Entry:
    """The end of a training that gave no result."""
    return {"status": "FAILED", "time": now(), "reason": reason}


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def _root() -> Path:
    return location.home() / paths.OUTBOX


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
