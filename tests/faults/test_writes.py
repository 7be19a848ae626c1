"""Every write of every stage fails once: a named error, nothing half-written, a correct re-run."""

import itertools
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from altair import Chart, InlineData
from click.testing import CliRunner, Result

from pipeline.cli.main import main
from pipeline.comparison.plots.table import pictures
from pipeline.config import Params
from tests.conftest import sweep_of
from tests.faults.injection import Faults, errors, injected
from tests.faults.training_folder import VARIANT, faulty_params, make_training_folder, write_params

_OF_VARIANT = [
    *("--length", str(VARIANT.length), "--initialization", VARIANT.initialization),
    *("--seed", str(VARIANT.seed)),
]
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "fetch_model": (["fetch_model"], ["data/model"]),
    "fetch_data": (["fetch_data"], ["data/raw"]),
    "tokenize": (["tokenize"], ["data/tokenized/splits", "data/tokenized/statistics.json"]),
    "kv_prefix": (["kv_prefix", "corpus"], ["data/kv_prefix/corpus"]),
    "train": (["train", *_OF_VARIANT], [f"data/train/{VARIANT.name}"]),
    "evaluate": (["evaluate", *_OF_VARIANT], [f"data/evaluate/{VARIANT.name}"]),
    "baselines": (["baselines", "no_prefix"], ["data/evaluate/no_prefix"]),
    "inspect": (["inspect"], ["data/inspection"]),
    "report": (["report"], ["data/report"]),
}

# Stages that write many files alike: `make test` fails each twentieth write, `make test-all` all.
_STEP = dict.fromkeys(("inspect", "report"), int(os.environ.get("WRITES_STEP", "20")))
# After which failures the stage runs again: `make test-all` after all, `make test` each fourth.
# It has no factor in common with the three kinds of error, so that each is met.
_AGAIN = 1 if os.environ.get("WRITES_STEP") == "1" else 4

pytestmark = pytest.mark.slow

_CHART = Chart(InlineData(values=[])).mark_point()


def _charts(params: Params) -> dict[str, Any]:
    """Pictures of nothing, in their files."""
    return {picture.file: _CHART for picture in pictures(params)}


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder after all stages, MLflow out of reach the whole time."""
    folder = tmp_path_factory.mktemp("writes")
    make_training_folder(folder)
    params = faulty_params(Path("inputs/model"))
    params["sweep"] = sweep_of([2], ["corpus"])
    params["train"] |= {"max_steps": 3, "eval_every_steps": 2}
    params["checkpoints"] = {"every_steps": 2}
    # A picture a metric, each written alike.
    params["evaluate"]["metrics"] = ["exact_match"]
    write_params(folder, params)
    with pytest.MonkeyPatch.context() as patch:
        # Drawing takes most of a second; what is tried here is where the pictures are written.
        patch.setattr("pipeline.stages.report.draw", lambda params, *_: _charts(params))
        patch.setattr("pipeline.comparison.timings.by_training_seconds", lambda _: _CHART)
        patch.setattr(vl_convert, "vegalite_to_png", lambda *_, **__: b"picture")
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for command, _ in STAGES.values():
            succeed(command)
        yield folder


def succeed(command: list[str]) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, (result.output, result.exception)


def content(folder: Path, outs: list[str]) -> dict[str, bytes]:
    """Every file below the outputs."""
    files: dict[str, bytes] = {}
    for out in outs:
        path = folder / out
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                files[str(file.relative_to(folder))] = file.read_bytes()
    return files


def remove(folder: Path, outs: list[str]) -> None:
    """As DVC does before it runs a stage."""
    for out in outs:
        path = folder / out
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def forget_training(folder: Path) -> None:
    for name in ("checkpoints", "outbox"):
        shutil.rmtree(folder / "data" / name, ignore_errors=True)


def refuse_damage(
    result: Result, folder: Path, outs: list[str], expected: dict[str, bytes]
) -> None:
    """A stage succeeded, or said in one line what is wrong and left nothing half-written."""
    if result.exit_code == 0:
        assert content(folder, outs) == expected
        return
    assert isinstance(result.exception, SystemExit), result.exception
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, result.stderr
    assert "Traceback" not in result.stderr
    found = content(folder, outs)
    assert {name: expected.get(name) for name in found} == found


@pytest.mark.parametrize("stage", STAGES)
def test_every_write_that_fails_is_named(finished_folder: Path, stage: str) -> None:
    command, outs = STAGES[stage]
    expected = content(finished_folder, outs)
    assert expected
    kinds = errors()
    for tried, failing in enumerate(itertools.count(1, _STEP.get(stage, 1))):
        forget_training(finished_folder)
        remove(finished_folder, outs)
        faults = Faults(finished_folder, failing, next(kinds))
        with injected(faults):
            result = CliRunner().invoke(main, command)
        refuse_damage(result, finished_folder, outs, expected)
        if result.exit_code and tried % _AGAIN:
            continue
        if result.exit_code:
            succeed(command)
        assert content(finished_folder, outs) == expected, faults.operations[failing - 1]
        assert not list((finished_folder / "data").rglob("*.partial"))
        if len(faults.operations) < failing:
            break
    assert failing > 3


@pytest.mark.parametrize("stage", ["fetch_model", "kv_prefix", "train"])
@pytest.mark.parametrize("most", [0, 700])
def test_a_disk_that_is_full(finished_folder: Path, stage: str, most: int) -> None:
    """The same for what libraries write themselves: the kernel refuses more than `most` bytes."""
    command, outs = STAGES[stage]
    expected = content(finished_folder, outs)
    forget_training(finished_folder)
    remove(finished_folder, outs)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        result = CliRunner().invoke(main, command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 1
    assert "File too large" in result.stderr
    refuse_damage(result, finished_folder, outs, expected)
    succeed(command)
    assert content(finished_folder, outs) == expected
