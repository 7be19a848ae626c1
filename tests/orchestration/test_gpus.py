"""Each worker of a sweep sees as many GPUs as one of its stages uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import processes
from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.models import kept
from pipeline.orchestration.gpus import gpus_of_stage, shared_out, visible_gpus
from pipeline.orchestration.ray_cluster import gpus_for
from tests.conftest import tiny_params
from tests.faults.training_folder import write_params

EIGHT = [str(number) for number in range(8)]


@pytest.mark.parametrize(
    ("section", "keys", "needed"),
    [
        ("hardware", {}, 1),
        ("hardware", {"processes": 4}, 4),
        ("hardware", {"processes": "auto"}, None),
        ("model", {"device_map": "auto"}, None),
        ("evaluate", {"device": "cuda"}, 1),
        ("train", {"device": "cpu"}, 1),
        ("evaluate", {"device": "cuda:1"}, None),
    ],
)
def test_the_gpus_of_a_stage(section: str, keys: dict[str, Any], needed: int | None) -> None:
    params = tiny_params(Path("model"))
    params.setdefault(section, {}).update(keys)
    assert gpus_of_stage(Params.model_validate(params)) == needed


@pytest.mark.parametrize(
    ("gpus", "needed", "workers", "groups"),
    [
        ([], 1, None, []),
        ([], None, 2, []),
        (EIGHT[:3], 1, None, ["0", "1", "2"]),
        (EIGHT[:3], 1, 2, ["0", "1", "2"]),
        (EIGHT, 4, None, ["0,1,2,3", "4,5,6,7"]),
        (EIGHT, 3, None, ["0,1,2", "3,4,5"]),
        # The training then says that there are too few.
        (EIGHT[:2], 4, None, ["0,1"]),
        (EIGHT, None, None, ["0,1,2,3,4,5,6,7"]),
        (EIGHT, None, 2, ["0,1,2,3", "4,5,6,7"]),
        (EIGHT[:2], None, 3, ["0", "1"]),
    ],
)
def test_gpus_shared_out(
    gpus: list[str], needed: int | None, workers: int | None, groups: list[str]
) -> None:
    assert shared_out(gpus, needed, workers) == groups


@pytest.mark.parametrize(
    ("visible", "count", "gpus"),
    [
        ("", 0, []),
        ("-1", 0, []),
        ("0", 0, []),
        ("2,3", 2, ["2", "3"]),
        ("GPU-a, GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),
        ("MIG-a,MIG-b", 0, []),
        # CUDA sees none behind one that is not there.
        ("1,9,0", 1, ["1"]),
    ],
)
def test_gpus_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("needed", "gpus"), [(1, 1), (4, 4), (16, 8), (None, 8)])
def test_gpus_of_a_cluster(needed: int | None, gpus: float) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4, "GPU": 8}},
        {"Alive": False, "Resources": {"CPU": 4, "GPU": 99}},
    ]
    assert gpus_for(nodes, needed) == gpus
    assert gpus_for([{"Alive": True, "Resources": {"CPU": 4}}], needed) == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Writes params.yaml with a number of processes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()

    def write(number: Any) -> None:
        params = tiny_params(tmp_path / "model")
        write_params(tmp_path, {**params, "hardware": {"processes": number}})

    return write


@pytest.mark.parametrize("number", [2, "auto"])
def test_together_is_of_one_process(project: Callable[[Any], None], number: Any) -> None:
    project(number)
    result = CliRunner().invoke(main, ["sweep", "--together", "4", "--dry"])
    assert result.exit_code == 2
    assert f"hardware.processes: {number} one variant in several; leave out" in result.stderr


def test_a_worker_leaves_the_gpus_to_the_processes_that_it_starts(
    project: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen model that it keeps would stand where the first of them needs room."""
    monkeypatch.setattr(kept, "_kept", object())
    monkeypatch.setattr("pipeline.cli.checked_params.check_files", lambda params: [])
    found: list[Any] = []
    monkeypatch.setattr(
        processes, "run_in_processes", lambda number, _: found.append((number, kept._kept))
    )
    project(2)
    options = ["--length", "2", "--initialization", "corpus", "--seed", "0"]
    result = CliRunner().invoke(main, ["train", *options])
    assert result.exit_code == 0, result.stderr
    assert found == [(2, None)]
