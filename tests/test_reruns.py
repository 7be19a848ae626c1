"""Edits, restored clones and experiments after a finished sweep, with real stages."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import DEAR, WHOLE_SWEEPS, Workspace
from tests.sweep_runs import VARIANTS, client, ran, runs

pytestmark = pytest.mark.real


@DEAR
def test_repro_force_gives_the_same_hashes(copy: Workspace) -> None:
    # As a user starts stages: an interpreter with a hash seed and addresses of its own, which forks
    # of one process share, and on which no byte may depend; and with no import done before, so that
    # each stage has to make its own, which takes seconds. What all stages write in another
    # interpreter, a sweep by workers is compared with (tests/orchestration/test_sweep.py).
    copy.real_interpreters()
    before = (copy.root / "dvc.lock").read_text()
    wanted = [] if WHOLE_SWEEPS else ["--single-item", "train@4-corpus-0", "report"]
    output = copy.run("dvc", "repro", "--force", *wanted).stdout
    assert (copy.root / "dvc.lock").read_text() == before
    assert len(runs(copy, "tags.state = 'current' and tags.kind = 'variant'")) == len(VARIANTS)
    current = {run.data.tags["variant"]: run for run in runs(copy, "tags.state = 'current'")}
    superseded = runs(copy, "tags.state = 'superseded' and tags.kind = 'variant'")
    trained = [name for name in ran(output) if name.startswith("train@")]
    assert len(superseded) == len(trained) == (len(VARIANTS) if WHOLE_SWEEPS else 1)
    for run in superseded:
        # MLflow's list folds it below the one that took its place.
        parent = current[run.data.tags["variant"]].info.run_id
        assert run.data.tags["mlflow.parentRunId"] == parent


_POINTS = {f"{s}@3-{n}-0" for s in ("train", "evaluate") for n in ("random", "corpus")}


def test_a_length_added_to_a_finished_sweep(copy: Workspace) -> None:
    copy.edit(lambda p: p["sweep"]["lengths"].append(3))
    output = copy.run("dvc", "repro").stdout
    assert ran(output) == {*_POINTS, "inspect", "report"}
    assert "len3-corpus-seed0" in (copy.root / "data" / "report" / "summary.md").read_text()
    assert len(runs(copy, "tags.state = 'current' and tags.kind = 'variant'")) == 6


def test_a_removed_variant_leaves_the_comparison(copy: Workspace) -> None:
    copy.edit(lambda p: p["sweep"].update(lengths=[4]))
    output = copy.run("dvc", "repro").stdout
    assert ran(output) == {"inspect", "report"}
    assert "len2-" not in (copy.root / "data" / "report" / "summary.md").read_text()
    assert not (copy.root / "data" / "train" / "len2-random-seed0").exists()
    (report,) = runs(copy, "tags.kind = 'sweep' and tags.state = 'current'")
    unlisted = runs(copy, "tags.state = 'unlisted'")
    assert {run.data.tags["variant"] for run in unlisted} == set(VARIANTS[:2])
    assert {run.data.tags["mlflow.parentRunId"] for run in unlisted} == {report.info.run_id}


def test_runs_that_an_earlier_version_hung_below_the_sweep_are_rows_again(copy: Workspace) -> None:
    mlflow = client(copy)
    (sweep,) = runs(copy, "tags.kind = 'sweep'")
    for run in runs(copy, "tags.kind != 'sweep'"):
        mlflow.set_tag(run.info.run_id, "mlflow.parentRunId", sweep.info.run_id)
    copy.pipeline("report")
    assert len(runs(copy)) == len(VARIANTS) + 2
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs(copy))


def test_a_restored_clone_gets_its_runs_from_the_files(copy: Workspace) -> None:
    (copy.root / "mlflow.db").unlink()
    shutil.rmtree(copy.root / "data" / "train")
    copy.run("dvc", "checkout")
    copy.run("dvc", "repro", "--force", "--single-item", "report")
    current = runs(copy, "tags.state = 'current' and tags.kind = 'variant'")
    assert sorted(run.data.tags["variant"] for run in current) == sorted(VARIANTS)
    for run in current:
        assert run.data.metrics["test/loss"] > 0
        assert run.data.params["train.learning_rate"] == "0.005"
        points = client(copy).get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in points] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda p: p["task"].update(input_template="{{ nothing }}"),
            "task.input_template: 'nothing' is undefined; the data's columns are: id, key, record",
        ),
        (
            lambda p: p["sweep"].update(lengths=[600]) or p["kv_prefix"].update(max_length=600),
            "sweep.lengths: 600 virtual tokens leave no room in the model's context of 512",
        ),
        (
            lambda p: p["kv_prefix"].update(max_length=400),
            "initializations.corpus.path: 'texts/corpus.txt' has 324 tokens, fewer than",
        ),
        (
            lambda p: p["task"].update(max_length=510),
            "task.max_length: 510 tokens after a prefix of 4 are more than the model's context",
        ),
        (
            lambda p: p["task"].update(references_column="answers"),
            "task.references_column: 'answers' is no column",
        ),
    ],
)
def test_what_the_fetched_files_refuse(
    copy: Workspace, edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    copy.edit(edit)
    before = {p: p.stat().st_mtime_ns for p in (copy.root / "data").rglob("*") if p.is_file()}
    result = copy.pipeline("check", check=False)
    assert result.returncode == 1
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    after = {p: p.stat().st_mtime_ns for p in (copy.root / "data").rglob("*") if p.is_file()}
    assert before == after
