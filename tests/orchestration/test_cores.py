"""Without GPUs two workers share the cores, where there are several and memory for both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pipeline.cli import sweep
from pipeline.config import Params
from pipeline.orchestration import cores, gpus, local_pool
from pipeline.orchestration.cores import Room, workers_on_cores
from pipeline.orchestration.local_pool import LocalPool
from pipeline.orchestration.task import Task
from tests.conftest import tiny_params


def params_with(section: str = "hardware", **keys: Any) -> Params:
    params = tiny_params(Path("model"))
    params.setdefault(section, {}).update(keys)
    return Params.model_validate(params)


@pytest.fixture
def on_linux(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A machine with so many cores and no GPU."""
    monkeypatch.setattr(cores.sys, "platform", "linux")
    monkeypatch.setattr(cores, "_OTHER_GPUS", Path("nowhere"))
    monkeypatch.setattr(gpus, "visible_gpus", list)
    return lambda count: monkeypatch.setattr(cores, "_cores", lambda: count)


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (2, 2), (64, 2)])
def test_the_workers_of_a_machine(
    on_linux: Callable[[int], None], count: int, workers: int
) -> None:
    on_linux(count)
    assert workers_on_cores(params_with()) == workers


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("hardware", {"processes": 2}),
        ("hardware", {"processes": "auto"}),
        ("model", {"device_map": "auto"}),
    ],
)
def test_what_takes_all_of_a_machine_is_alone(
    on_linux: Callable[[int], None], section: str, keys: dict[str, Any]
) -> None:
    on_linux(8)
    assert workers_on_cores(params_with(section, **keys)) == 1


def test_a_gpu_of_another_maker_is_not_shared(
    on_linux: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_linux(8)
    monkeypatch.setattr(cores, "_OTHER_GPUS", tmp_path)
    assert workers_on_cores(params_with()) == 1
    monkeypatch.setattr(cores, "_OTHER_GPUS", Path("nowhere"))
    monkeypatch.setattr(cores.sys, "platform", "darwin")
    assert workers_on_cores(params_with()) == 1


@pytest.mark.parametrize(
    ("asked", "visible", "count", "is_bounded"),
    [(None, [], 2, True), (3, [], 3, False), (None, ["0", "1", "2"], 3, False)],
)
def test_how_many_a_sweep_starts(
    on_linux: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    visible: list[str],
    count: int,
    is_bounded: bool,
) -> None:
    on_linux(2)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: visible)
    with (
        mock.patch.object(local_pool, "LocalPool") as pool,
        sweep._here(asked, params_with()) as (open_pool, found),
    ):
        open_pool()
    assert found == count
    assert pool.call_args.args[0] == count
    assert (pool.call_args.kwargs.get("room") is not None) == is_bounded


def test_the_room_for_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_BESIDE_WEIGHTS", 40)
    free = [0]
    monkeypatch.setattr(cores, "_free_bytes", lambda: free[0])
    room = Room(2, tmp_path)
    assert room() == 2, "whoever fetches the model needs no room for it"
    (tmp_path / "a.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 10)
    free[0] = 2 * (3 * 20 + 40)
    assert room() == 2
    free[0] = 0
    assert room() == 2, "by now the workers hold it"
    for left, count in ((199, 1), (0, 1), (10**9, 2)):
        free[0] = left
        assert Room(2, tmp_path)() == count


def test_the_memory_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(cores, "_LIMIT", limit)
    whole = cores._free_bytes()
    assert whole > 2**20
    limit.write_text("1048576\n")
    assert cores._free_bytes() == 2**20
    limit.write_text("max\n")
    assert cores._free_bytes() > 2**20


def test_a_worker_without_room_gets_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        LocalPool, "_started", lambda *_: local_pool._Worker(mock.Mock(), mock.Mock())
    )
    room = [2]
    pool = LocalPool(2, room=lambda: room[0])
    assert pool.free() == 2
    pool.submit(Task(("a",), (("a",),)))
    assert pool.free() == 1
    room[0] = 1
    assert pool.free() == 0
    pool.submit(Task(("b",), (("b",),)))
    assert pool.free() == 0
