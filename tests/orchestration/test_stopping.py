"""An end that is asked for reaches what is at work, at whatever moment it is asked for."""

import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest

from pipeline.orchestration.stopping import Stopping
from pipeline.orchestration.task import Task
from pipeline.orchestration.worker_process import serve


class Asked:
    """Counts how often those at work are asked to end."""

    def __init__(self) -> None:
        self.times = 0
        self.stopping = Stopping()
        self.stopping.stop = self

    def __call__(self) -> None:
        self.times += 1


def test_a_signal_while_work_is_given_out_stops_that_work_too() -> None:
    asked = Asked()
    with asked.stopping.submitting():
        asked.stopping.note(signal.SIGINT, None)
        assert asked.times == 0
    assert asked.times == 1
    # Whoever was asked already is not asked again, which would end it without a checkpoint.
    with asked.stopping.submitting():
        pass
    assert asked.times == 1
    with pytest.raises(KeyboardInterrupt):
        asked.stopping.note(signal.SIGINT, None)


def test_a_worker_that_is_asked_before_it_has_read_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that the task would run to its end."""
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("spawn")
    own, its = context.Pipe()
    process = context.Process(target=serve, args=(its, {}))
    process.start()
    assert process.pid is not None
    while not _takes_sigterm(process.pid):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    own.send(Task(("nothing",), (("nothing",),)))
    try:
        assert own.recv() == "stopped"
    finally:
        own.close()
        its.close()
        process.join()
    assert process.exitcode == 0


def _takes_sigterm(process: int) -> bool:
    """Whether a process has a handler of its own for it."""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
