"""`python -m pipeline sweep` does what a serial `dvc repro` does, byte for byte, whatever dies."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.repo import Repo
from dvc.rwlock import rwlock

from tests.conftest import DEAR, WHOLE_SWEEPS, Workspace, copied, sweep_of
from tests.sweep_runs import VARIANTS, ran, runs

pytestmark = pytest.mark.real


def without_results(workspace: Workspace) -> None:
    """Remove what stages wrote, and all that DVC and MLflow know of it."""
    for name in ("dvc.lock", "mlflow.db", ".dvc/cache", ".dvc/tmp", "mlruns"):
        path = workspace.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in (workspace.root / "data").iterdir():
        if path.name not in ("workspace.json", "README.md"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_two_workers_leave_what_a_serial_run_leaves(copy: Workspace) -> None:
    lock = copy.root / "dvc.lock"
    serial = lock.read_bytes()
    stages = len(re.findall(rb"^  \S", serial, flags=re.MULTILINE))
    without_results(copy)
    assert f"{stages} stages ran" in copy.pipeline("sweep", "--workers", "2").stdout
    assert lock.read_bytes() == serial
    assert "up to date" in copy.run("dvc", "status").stdout
    assert ran(copy.run("dvc", "repro").stdout) == set()
    assert lock.read_bytes() == serial
    # Both workers logged to one new store, and nothing waits for it.
    tags = [run.data.tags for run in runs(copy, "tags.kind = 'variant'")]
    assert sorted(tag["variant"] for tag in tags) == sorted(VARIANTS)
    assert not list((copy.root / "data" / "outbox").glob("*.jsonl"))

    said = copy.pipeline("sweep", "--workers", "2")
    assert said.stdout == "everything is up to date: no stage has changed\n"
    assert copy.pipeline("sweep", "--dry").stdout == "nothing would run\n"

    # Outputs that the run-cache has are brought back, and no stage runs.
    (copy.root / "dvc.lock").unlink()
    shutil.rmtree(copy.root / "data" / "train")
    assert f"0 stages ran, {stages} came from the run-cache" in copy.pipeline("sweep").stdout
    assert lock.read_bytes() == serial
    assert "up to date" in copy.run("dvc", "status").stdout

    # What is listed no longer is gone before anything is hashed.
    copy.edit(lambda p: p["sweep"].update(lengths=[4]))
    assert copy.pipeline("sweep").stdout.startswith("2 stages ran, ")
    assert "up to date" in copy.run("dvc", "status").stdout


def test_what_is_listed_no_longer_goes_once_a_sweep_looks_at_all(copy: Workspace) -> None:
    """Not while another command may write it, nor by a sweep of stages that do not look at it."""
    copy.edit(lambda params: params["sweep"].update(lengths=[4]))
    gone = [copy.root / "data" / stage / VARIANTS[0] for stage in ("train", "evaluate")]
    assert copy.pipeline("sweep", "train@4-corpus-0").stdout.startswith("everything is up to date")
    assert all(map(Path.exists, gone))
    repo, trained = Repo(str(copy.root)), str(copy.root / "data" / "train")
    with rwlock(repo.tmp_dir, repo.fs, "another", [], [trained], hardlink=False):
        busy = copy.pipeline("sweep", check=False)
    assert "is busy, it is being blocked by" in busy.stderr
    assert all(map(Path.exists, gone))
    copy.pipeline("sweep", "inspect")
    assert not any(map(Path.exists, gone))


def test_a_failure_costs_what_needs_it_alone(copy: Workspace) -> None:
    def change(params: dict[str, Any]) -> None:
        params["sweep"] = sweep_of([2], ["huge", "zero"])
        shape = "data/model/config.json"
        params["initializations"]["huge"] = {"type": "random", "path": shape, "scale": 1e38}
        params["initializations"]["zero"] = {"type": "zero", "path": shape}

    copy.edit(change)
    listed = copy.pipeline("sweep", "--dry").stdout.split()
    assert listed.index("train@2-huge-0") < listed.index("evaluate@2-huge-0")
    assert "tokenize" not in listed
    result = copy.pipeline("sweep", check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    head, _, said = result.stderr.partition("error: 1 of ")
    assert "failed: train@2-huge-0: " in head
    assert "before any training; start from another initialisation" in said
    assert "its output: .dvc/tmp/sweep/train@2-huge-0.log" in said
    for skipped in ("evaluate@2-huge-0", "inspect", "report"):
        assert f"  {skipped} (needs train@2-huge-0)" in said
    assert (copy.root / "data/evaluate/len2-zero-seed0/metrics.json").exists()
    assert ran(copy.run("dvc", "repro", "--dry", "evaluate@2-zero-0").stdout) == set()


def test_variants_trained_together_are_one_task(copy: Workspace) -> None:
    copy.edit(lambda params: params["train"].update(learning_rate=4e-3))
    said = copy.pipeline("sweep", "train", "--together", "4")
    assert said.stdout.startswith("4 stages ran"), said.stderr
    assert len(list((copy.root / ".dvc" / "tmp" / "sweep").glob("train@*.log"))) == 1
    assert ran(copy.run("dvc", "repro", "train").stdout) == set()


@pytest.fixture(scope="module")
def long(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The finished sweep with trainings to do that take long enough to be met at work."""
    workspace = copied(finished, tmp_path_factory.mktemp("long") / "copy")

    def change(params: dict[str, Any]) -> None:
        params["train"].update(max_steps=600, compile=False)
        params["checkpoints"] = {"every_steps": 10}

    workspace.edit(change)
    workspace.real_interpreters()
    return workspace


@contextmanager
def started(workspace: Workspace, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A sweep at work, which a failed assertion does not leave behind."""
    with subprocess.Popen(
        ["python", "-m", "pipeline", "sweep", *arguments],
        cwd=workspace.root,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(is_true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 240
    while not (found := is_true()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def worker_of(process: "subprocess.Popen[str]", stage: str) -> psutil.Process:
    """The worker that runs a stage, told by where it prints to."""
    log = f"{stage}.log"

    def prints_there(child: psutil.Process) -> bool:
        try:
            return Path(f"/proc/{child.pid}/fd/1").readlink().name == log
        except OSError:
            return False

    return until(lambda: [child for child in family(process) if prints_there(child)])[0]


def at_work(workspace: Workspace, variant: str) -> None:
    """Wait until a training has kept a checkpoint."""
    pattern = f"{variant}-*/checkpoint.safetensors"
    until(lambda: list((workspace.root / "data" / "checkpoints").glob(pattern)))


def log_of(workspace: Workspace, stage: str) -> str:
    return (workspace.root / ".dvc" / "tmp" / "sweep" / f"{stage}.log").read_text()


def assert_as_without_company(workspace: Workspace, stage: str) -> None:
    """A process of its own, never disturbed, ends with the same bytes."""
    lock = workspace.root / "dvc.lock"
    before = lock.read_bytes()
    assert ran(workspace.run("dvc", "repro", stage).stdout) == set()
    workspace.run("dvc", "repro", "--force", "--single-item", stage)
    assert lock.read_bytes() == before


@DEAR
def test_a_killed_worker_costs_its_time_since_the_checkpoint(long: Workspace) -> None:
    stage = "train@2-corpus-0"
    with started(long, stage) as process:
        at_work(long, "len2-corpus-seed0")
        worker_of(process, stage).kill()
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "1 stage ran" in output
    assert re.search(r"going on after step \d+0 of 600", log_of(long, stage))
    assert_as_without_company(long, stage)


def test_ctrl_c_stops_at_the_step_and_leaves_nobody(long: Workspace) -> None:
    stage = "train@4-corpus-0"
    with started(long, stage) as process:
        at_work(long, "len4-corpus-seed0")
        # Another command of DVC meanwhile hears who is at work.
        again = ("repro", "--force", "--single-item", stage)
        busy = Workspace(long.root).run("dvc", *again, check=False)
        assert busy.returncode != 0
        assert "is busy, it is being blocked by" in busy.stderr
        children = family(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "goes on from there" in errors
    assert f"{stage}: stopped by SIGTERM after step " in errors
    until(lambda: not any(map(is_running, children)))
    assert "Ctrl" not in long.pipeline("sweep", stage).stderr
    assert "going on after step" in log_of(long, stage)
    if WHOLE_SWEEPS:
        # As after a kill, in the test above.
        assert_as_without_company(long, stage)


@DEAR
def test_a_killed_sweep_leaves_nobody_and_dvc_goes_on(long: Workspace) -> None:
    stage = "train@2-random-0"
    with started(long, stage) as process:
        at_work(long, "len2-random-seed0")
        children = family(process)
        process.kill()
        until(lambda: not any(map(is_running, children)))
        process.communicate()
    output = long.run("dvc", "repro", stage).stdout
    assert "going on after step" in output
    assert_as_without_company(long, stage)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_logs_lie_where_neither_git_nor_dvc_looks(long: Workspace) -> None:
    assert Path(long.root, ".dvc", "tmp", "sweep").is_dir()
    assert ".dvc/tmp" not in long.run("git", "status", "--short", "-uall").stdout
