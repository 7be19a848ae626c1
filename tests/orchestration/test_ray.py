"""A sweep on a Ray cluster ends as `dvc repro` does, whatever happens to its workers."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.orchestration.ray_cluster import connected, share_of
from pipeline.orchestration.task import LOGS
from tests.conftest import DEAR, WHOLE_SWEEPS, Workspace, make_workspace
from tests.orchestration.clusters import cut_power, machines

pytest.importorskip("ray")

# Checkpoints are written aside: by when its power is cut a training may be some steps further.
_GOES_ON = re.compile(r"^going on after step [1-4] of 4, from the checkpoint$", re.MULTILINE)

_SECONDS = 400  # for a sweep, on a machine that is busy with other tests

# Read by every Python of a machine when it starts: the first training that has kept a checkpoint
# says who it is, and waits until it was asked to end.
_HOLD = """
import os, pathlib, signal, time

held = pathlib.Path({held!r})
asked = held.with_suffix(".asked")
_replace, _kill = pathlib.Path.replace, os.kill

def replace(self, target):
    replaced = _replace(self, target)
    if pathlib.Path(target).name == "checkpoint.safetensors" and not held.exists():
        held.with_suffix(".new").write_text(str(os.getpid()))
        _replace(held.with_suffix(".new"), held)
        while not asked.exists():
            time.sleep(0.05)
    return replaced

def kill(process, number):
    _kill(process, number)
    if number == signal.SIGTERM:
        asked.touch()

pathlib.Path.replace, os.kill = replace, kill
"""


class Held:
    """Machines whose first training stops at its first checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._held = folder / "held"
        hooks = folder / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(_HOLD.format(held=str(self._held)))
        self.environment = {"PYTHONPATH": str(hooks)}

    def training(self, sweep: "subprocess.Popen[str]") -> int:
        """The process of the training, once there is one."""
        end = time.monotonic() + _SECONDS
        while not self._held.exists():
            assert sweep.poll() is None, sweep.communicate()[0]
            assert time.monotonic() < end, "no training has begun"
            time.sleep(0.1)
        return int(self._held.read_text())


@contextmanager
def sweeping(workspace: Workspace, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m pipeline sweep` at work; it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sweep", *arguments],
        cwd=workspace.root,
        env={**workspace.environment, "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for a sweep that has to go well; returns what it printed."""
    output, _ = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0, output
    return output


def fresh_like(finished: Workspace, root: Path) -> Workspace:
    """A workspace where nothing has run, of the same params, with a checkpoint at every step."""
    workspace = make_workspace(root, Path(finished.params["model"]["path"]))
    workspace.edit(lambda params: params.update(checkpoints={"every_steps": 1}))
    return workspace


def stages_of(workspace: Workspace) -> dict[str, Any]:
    """What dvc.lock says of each stage."""
    lock = YAML(typ="safe").load(workspace.root / "dvc.lock")
    return dict(lock["stages"])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens(address: str) -> None:
    with (
        pytest.raises(PipelineError, match=r"no Ray cluster answers there .* `ray start --head`"),
        connected(address),
    ):
        pass


def test_without_ray_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match=r"pip install '\.\[ray\]'"), connected("auto"):
        pass


def machine(**resources: float) -> dict[str, Any]:
    """A machine as `ray.nodes()` tells of it."""
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("machines_", "workers", "gpus", "share"),
    [
        ([machine(CPU=8)], 2, None, (4, 0)),
        ([machine(CPU=8), machine(CPU=3)], 3, None, (3, 0)),
        ([machine(CPU=2)], 5, None, (1, 0)),
        ([machine(CPU=16, GPU=8)], 8, None, (1, 1)),
        ([machine(CPU=16, GPU=1)], 4, 0.25, (1, 0.25)),
        ([machine(CPU=16, GPU=1)], 4, 0, (4, 0)),
        ([machine(CPU=16, GPU=1), {**machine(CPU=99), "Alive": False}], 4, 0, (4, 0)),
    ],
)
def test_the_share_of_a_worker(
    machines_: list[dict[str, Any]],
    workers: int,
    gpus: float | None,
    share: tuple[float, float],
) -> None:
    assert tuple(share_of(machines_, workers, gpus).values()) == share


@pytest.mark.parametrize("gpus", [1.5, float("nan")])
def test_no_share_of_gpus(gpus: float) -> None:
    with pytest.raises(PipelineError, match=r"is no share of a GPU; use a fraction of 1 or a"):
        share_of([machine(CPU=4, GPU=4)], 1, gpus)


def test_more_gpus_than_a_machine_has() -> None:
    with pytest.raises(PipelineError, match=r"--gpus-per-worker 2 is more .* has \(1\)"):
        share_of([machine(CPU=4, GPU=1)], 1, 2)


@pytest.mark.real
def test_a_killed_worker_costs_no_more_than_its_time(finished: Workspace, tmp_path: Path) -> None:
    workspace = fresh_like(finished, tmp_path / "project")
    held = Held(tmp_path)
    # Two trainings for two workers, in `make test-all` the sweep.
    targets = () if WHOLE_SWEEPS else ("evaluate@2-corpus-0", "train@4-corpus-0")
    with (
        machines(held.environment, held.environment) as address,
        sweeping(workspace, *targets, "--workers", "2", "--address", address) as sweep,
    ):
        cut_power(held.training(sweep))
        output = finish(sweep)
    logs = [path.read_text() for path in (workspace.root / LOGS).glob("train@*.log")]
    assert len(logs) == (4 if WHOLE_SWEEPS else 2)
    assert sum(_GOES_ON.search(log) is not None for log in logs) == 1, output
    found, expected = stages_of(workspace), stages_of(finished)
    assert found.keys() >= set(targets)
    assert found == {name: expected[name] for name in found}
    if WHOLE_SWEEPS:
        lock = "dvc.lock"
        assert (workspace.root / lock).read_bytes() == (finished.root / lock).read_bytes()
    assert "up to date" in workspace.run("dvc", "status", *targets).stdout
    assert "Running stage" not in workspace.run("dvc", "repro", *targets).stdout
    assert not list((workspace.root / ".dvc" / "tmp").glob("workers-*"))


@DEAR
@pytest.mark.real
def test_a_machine_that_does_not_see_the_project(finished: Workspace, tmp_path: Path) -> None:
    """Outputs go through the remote, and a sweep that was stopped goes on there."""
    workspace = fresh_like(finished, tmp_path / "project")
    target, name = "evaluate@2-corpus-0", "len2-corpus-seed0"
    elsewhere = tmp_path / "machine"
    held = Held(tmp_path)
    with machines({**held.environment, "PREFIX_TUNING_NODE_FOLDER": str(elsewhere)}) as address:
        with sweeping(workspace, target, "--address", address) as sweep:
            refused, _ = sweep.communicate(timeout=_SECONDS)
        assert sweep.returncode == 1
        assert "dvc remote add --default" in refused
        assert not (workspace.root / "data" / "model").exists()
        (tmp_path / "remote").mkdir()
        workspace.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
        with sweeping(workspace, target, "--address", address) as sweep:
            held.training(sweep)
            sweep.send_signal(signal.SIGINT)
            stopped, _ = sweep.communicate(timeout=_SECONDS)
        assert sweep.returncode == 130, stopped
        assert "Traceback" not in stopped
        with sweeping(workspace, target, "--address", address) as sweep:
            finish(sweep)
    assert (workspace.root / LOGS / "train@2-corpus-0.log").exists()
    found, expected = stages_of(workspace), stages_of(finished)
    assert target in found
    assert found == {name: expected[name] for name in found}
    # Nothing was trained in the project's own folder.
    assert not (workspace.root / "data" / "checkpoints").exists()
    [copy] = [path for path in elsewhere.iterdir() if (path / "dvc.yaml").exists()]
    assert any((copy / "data" / "checkpoints").iterdir())
    assert "training_seconds" in (workspace.root / f"data/timings/{name}.json").read_text()
    assert "up to date" in workspace.run("dvc", "status", target).stdout
