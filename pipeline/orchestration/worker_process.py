"""One worker of this machine: a process that runs the tasks it is sent, until nobody sends any."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from pipeline.orchestration.starter import end_with_starter

_SECONDS_TO_END = 600.0
"""For the step at hand of a training whose sweep is gone."""


@dataclass
class _Work:
    """Whether a task is at work, and whether a signal has come that found none.

    It came too late, or before the task that it is for was read: no other task follows it.
    """

    is_on: bool = False
    is_asked_to_end: bool = False


def serve(connection: Connection, environment: dict[str, str]) -> None:
    """Run tasks and send how each ended: a sentence, or None; ends with its connection."""
    # Away from the terminal's Ctrl-C, which is the sweep's to pass on.
    os.setpgid(0, 0)
    os.environ.update(environment)
    work = _Work()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if work.is_on:
            raise KeyboardInterrupt
        work.is_asked_to_end = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    # A training after its step, with a checkpoint.
    end_with_starter(_SECONDS_TO_END)
    from pipeline.orchestration.worker import run

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        with _printing_to(task.log):
            try:
                work.is_on = True
                error = "stopped" if work.is_asked_to_end else run(task)
            except KeyboardInterrupt:  # between two lines of `run` itself
                error = "stopped"
            work.is_on = False
        try:
            connection.send(error)
        except OSError:
            return


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Send both streams to a file, also what is written below Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
