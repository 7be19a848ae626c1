"""A training in two processes is that of one, to 1e-6 in float32, whatever ends it in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.config import load_params
from pipeline.prefix import KVPrefix
from pipeline.stages import train as stage
from pipeline.workspace import paths
from tests.conftest import DEAR, ROOT
from tests.distributed.trainings import STAGE, TRAININGS, alone, tensors_of
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    working_in,
    write_params,
)

pytestmark = pytest.mark.slow

_ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    # No server there, and no waiting for one.
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the trainings, with a folder in which the stage can run, and another one like it."""
    folder = tmp_path_factory.mktemp("trainings")
    _make(folder / STAGE)
    shutil.copytree(folder / STAGE, folder / "alone")
    return folder


@pytest.fixture(scope="module")
def results(made: Path) -> tuple[dict[str, Any], list[Any]]:
    """What one process gives, and each of two that torchrun started."""
    expected = alone(made)
    command = ("torchrun", "--nproc-per-node", "2", "-m", "tests.distributed.trainings")
    torchrun = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [torchrun, *command[1:], made],
        cwd=ROOT,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("going on after step 3 of 6") == 2
    return expected, [json.loads((made / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [*TRAININGS, "resumed", "begun by one"])
def test_two_processes_train_what_one_does(results: Any, name: str) -> None:
    """Sharded or not, with uneven batches, and stopped in between by a signal to one of them."""
    expected, found = results
    # At so high a rate AdamW, which divides by the gradient's size, shows how small some are.
    # Of states, padded in other calls, rounding differs by more.
    tolerance = 1e-5 if name in ("stopped early", "states", "states, sharded") else 1e-6
    for key, numbers in expected.get(name, expected["plain"]).items():
        assert len(found[0][name][key]) == len(numbers)
        torch.testing.assert_close(
            torch.tensor(found[0][name][key]),
            torch.tensor(numbers),
            rtol=tolerance,
            atol=tolerance,
        )


def test_all_processes_end_with_the_same_bits(results: Any) -> None:
    _, (first, second) = results
    assert first == second
    assert first["plain"] == first["plain again"] == first["resumed"]


def test_trainings_differ_where_they_should(results: Any) -> None:
    """The comparisons above compare what moved: dropout, early stopping and projection count."""
    expected, _ = results
    assert len(expected["stopped early"]["loss"]) < len(expected["plain"]["loss"])
    ends = [tuple(found["end"]) for name, found in expected.items() if name != "stopped early"]
    # Those again, and the three that are sharded: alike in one process.
    assert len(set(ends)) == len(ends) - 4


def test_the_stage_trains_in_two_processes_what_it_does_in_one(made: Path, results: Any) -> None:
    """A variant that starts from a text, by what the first of them wrote."""
    with working_in(made / "alone"):
        expected = _train_alone()
    with working_in(made / STAGE):
        _assert_close(_trained(), expected)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    _make(tmp_path)
    with working_in(tmp_path):
        yield tmp_path


def _make(folder: Path) -> None:
    (folder / "inputs").mkdir(parents=True)
    make_training_folder(folder)


def _write(folder: Path, processes: int) -> None:
    params = faulty_params(Path("inputs/model"))
    params["train"]["max_steps"] = 80
    hardware = {"processes": processes, "shard_frozen_model": True}
    write_params(folder, {**params, "hardware": hardware})


def _train_alone() -> KVPrefix:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            patch.setenv(name, _ENVIRONMENT[name])
        stage.run(load_params(), VARIANT)
    return _trained()


def _trained() -> KVPrefix:
    return KVPrefix.load(paths.TRAIN / VARIANT.name / "prefix.safetensors")


def _assert_close(found: KVPrefix, expected: KVPrefix) -> None:
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def _start() -> "subprocess.Popen[str]":
    options = ("--length", "2", "--initialization", "corpus", "--seed", "0")
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", *options],
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _when_saved(launcher: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait until the training has saved a checkpoint that was not there before."""

    def times() -> set[int]:
        return {path.stat().st_mtime_ns for path in folder.glob(f"{paths.CHECKPOINTS}/*/*.saf*")}

    before, began = times(), time.monotonic()
    while launcher.poll() is None and not times() - before and time.monotonic() - began < 120:
        time.sleep(0.005)


@DEAR
def test_a_killed_process_ends_all_and_the_next_command_goes_on(folder: Path) -> None:
    """Begun by two processes, of which one is killed; stopped by a signal to their launcher; ended
    by one process alone, with the prefix of a training that nothing ended."""
    _write(folder, 1)
    expected = _train_alone()
    for path in (*folder.glob(f"{paths.TRAIN}/*"), *folder.glob(f"{paths.CHECKPOINTS}/*")):
        path.rename(folder / f"{path.name}-{path.parent.name}")
    _write(folder, 2)

    launcher = _start()
    _when_saved(launcher, folder)
    ranks = psutil.Process(launcher.pid).children()
    next(rank for rank in ranks if rank.environ()["RANK"] == "1").kill()
    _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 1
    assert errors.count("error: ") == 1
    assert "error: process 1 of 2 was killed (SIGKILL), and the others were stopped" in errors
    assert "Traceback" not in errors

    launcher = _start()
    _when_saved(launcher, folder)
    launcher.send_signal(signal.SIGTERM)
    output, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 128 + signal.SIGTERM
    assert output.count("going on after step") == 1
    assert errors.count("error: ") == 1
    assert "error: stopped by SIGTERM after step" in errors
    assert "Traceback" not in errors
    assert not (folder / paths.TRAIN / VARIANT.name).exists()

    _write(folder, 1)
    found = _train_alone()
    _assert_close(found, expected)
