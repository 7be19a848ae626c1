"""No task is forgotten, however many workers die at once."""

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from unittest import mock

import pytest

from pipeline.orchestration.local_pool import LocalPool, _Worker
from pipeline.orchestration.task import Task


def test_a_worker_that_died_is_told_of_before_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[mock.Mock, Connection]] = []

    def start(pool: LocalPool, place: int) -> _Worker:
        own, its = Pipe()
        started.append((mock.Mock(exitcode=-9), its))
        return _Worker(started[-1][0], own)

    def kill(place: int) -> None:
        process, its = started[place]
        process.is_alive.return_value = False
        its.close()

    monkeypatch.setattr(LocalPool, "_started", start)
    pool, tasks = LocalPool(2), [Task((name,), ((name,),)) for name in ("one", "other")]
    for task in tasks:
        pool.submit(task)
    kill(1)
    told = pool.wait()
    assert (told.task, told.lost) == (tasks[1], True)
    kill(0)
    pool.submit(told.task)
    assert pool.free() == 0
    told = pool.wait()
    assert (told.task, told.lost) == (tasks[0], True)
