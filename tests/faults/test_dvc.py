"""Interrupted, diverging and concurrent DVC runs, and a clone with a remote; real stages."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEAR, Workspace, sweep_of
from tests.sweep_runs import ran, runs

pytestmark = pytest.mark.real


def small(workspace: Workspace) -> None:
    """One variant, and everything committed."""
    workspace.edit(lambda params: params.update(sweep=sweep_of([2], ["corpus"])))
    commit(workspace)


def commit(workspace: Workspace) -> None:
    workspace.run("git", "add", "-A", ".", ":!first_output.txt")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    workspace.run("git", *identity, "commit", "-qm", "a sweep")


def test_a_clone_pulls_a_finished_sweep_and_runs_nothing(copy: Workspace, tmp_path: Path) -> None:
    copy.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    commit(copy)
    copy.run("dvc", "push")
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(copy.root / "inputs", tmp_path / "unused")
    copy.run("git", "clone", "-q", str(copy.root), str(clone.root))
    clone.run("dvc", "pull")
    assert ran(clone.run("dvc", "repro").stdout) == set()
    for name in ("train", "evaluate", "inspection", "report"):
        found = sorted(path.name for path in (clone.root / "data" / name).rglob("*"))
        assert found == sorted(path.name for path in (copy.root / "data" / name).rglob("*"))


@DEAR
def test_experiments_beside_each_other(copy: Workspace) -> None:
    small(copy)
    before = {run.info.run_id: dict(run.data.tags) for run in runs(copy)}
    for name, rate in (("slow", "1e-3"), ("fast", "2e-2")):
        copy.run("dvc", "exp", "run", "--queue", "-n", name, "-S", f"train.learning_rate={rate}")
    copy.run("dvc", "queue", "start", "--jobs", "2")
    for _ in range(600):
        status = copy.run("dvc", "queue", "status").stdout
        if not re.search("Running|Queued", status):
            break
        time.sleep(1)
    assert status.count("Success") == 2, status + copy.run("dvc", "queue", "logs", "slow").stdout
    # Each has runs of its own, complete, in the store of the repository itself.
    found = runs(copy)
    for name, rate in (("slow", "0.001"), ("fast", "0.02")):
        (own,) = [
            run
            for run in found
            if run.data.tags.get("dvc_experiment") == name and run.data.tags["kind"] == "variant"
        ]
        assert own.info.status == "FINISHED"
        assert own.data.params["train.learning_rate"] == rate
        assert own.data.tags["state"] == "current"
        assert own.data.metrics["test/loss"] > 0
        assert Path(own.info.artifact_uri.removeprefix("file://"), "prefix").is_dir()
    # Those that were there before are as they were.
    assert {run.info.run_id: dict(run.data.tags) for run in found if run.info.run_id in before} == (
        before
    )
    assert "up to date" in copy.run("dvc", "status").stdout or copy.params["train"]
    assert not list((copy.root / "data" / "outbox").glob("*.jsonl"))


def test_a_diverging_variant_leaves_the_others_alone(copy: Workspace) -> None:
    def change(params: dict[str, Any]) -> None:
        params["sweep"] = sweep_of([2], ["huge", "zero"])
        shape = "data/model/config.json"
        params["initializations"]["huge"] = {"type": "random", "path": shape, "scale": 1e38}
        params["initializations"]["zero"] = {"type": "zero", "path": shape}

    copy.edit(change)
    result = copy.run("dvc", "repro", "--keep-going", check=False)
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "before any training; start from another initialisation" in said[0]
    assert "Traceback" not in result.stderr
    assert (copy.root / "data/evaluate/len2-zero-seed0/metrics.json").exists()
    assert not (copy.root / "data/train/len2-huge-seed0/prefix.safetensors").exists()
    (failed,) = runs(copy, "tags.variant = 'len2-huge-seed0'")
    assert failed.info.status == "FAILED"
    assert "before any training" in failed.data.tags["failure"]


def test_a_killed_repro_goes_on(copy: Workspace) -> None:
    small(copy)

    def change(params: dict[str, Any]) -> None:
        params["train"]["max_steps"] = 150
        params["checkpoints"] = {"every_steps": 5}

    copy.edit(change)
    target = "train@2-corpus-0"
    reference = Workspace(copy.root.with_name("reference"))
    shutil.copytree(copy.root, reference.root, symlinks=True)
    reference.run("dvc", "repro", target)
    process = subprocess.Popen(
        ["dvc", "repro", target],
        cwd=copy.root,
        env=copy.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoints = copy.root / "data" / "checkpoints"
    for _ in range(6000):
        if list(checkpoints.glob("len2-corpus-seed0-*/checkpoint.safetensors")):
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = copy.run("dvc", "repro", target).stdout
    assert "going on after step" in output
    lock = "dvc.lock"
    assert (copy.root / lock).read_text() == (reference.root / lock).read_text()


def test_damaged_and_deleted_intermediates_are_repaired(copy: Workspace) -> None:
    small(copy)
    arrow = next((copy.root / "data/tokenized/splits/train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    variant = ("--length", "2", "--initialization", "corpus", "--seed", "0")
    result = copy.pipeline("train", *variant, check=False)
    assert result.returncode == 1
    assert "data/tokenized/splits/train: is damaged" in result.stderr
    assert "run `dvc repro --force tokenize`" in result.stderr
    weights = copy.root / "data/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    result = copy.pipeline("evaluate", *variant, check=False)
    assert result.returncode == 1
    assert "run `dvc repro --force fetch_model`" in result.stderr
    shutil.rmtree(copy.root / "data/kv_prefix/corpus")
    before = (copy.root / "dvc.lock").read_text()
    copy.run("dvc", "repro", "evaluate@2-corpus-0")
    assert "up to date" in copy.run("dvc", "repro", "evaluate@2-corpus-0").stdout
    assert (copy.root / "dvc.lock").read_text() == before
