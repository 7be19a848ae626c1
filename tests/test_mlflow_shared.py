"""Whose a comparison is where several log to one store, and which score a run's tags speak of."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.sweep.grid import sweep
from pipeline.tracking.results import tell_score
from pipeline.tracking.runs import start_run
from pipeline.tracking.store import open_experiment
from pipeline.tracking.view import describe, save_view, view_key
from pipeline.workspace import location, paths
from tests.written_sweep import params_of, write_sweep


def inside(folder: Path, patch: pytest.MonkeyPatch) -> Params:
    folder.mkdir(exist_ok=True)
    patch.chdir(folder)
    return params_of()


def saved(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The name of the view, and the experiment's description, as a workspace's report has them."""
    params = inside(folder, patch)
    experiment_id = open_experiment(params)
    save_view(params, experiment_id)
    describe(experiment_id, "Best prefix: this one.", "0123")
    tags = MlflowClient().get_experiment(experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{view_key()}"])
    return view["name"], tags["mlflow.note.content"]


def test_who_shares_a_store_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    for name in ("mine", "yours"):
        view, note = saved(tmp_path / name, monkeypatch)
        whose = location.home_label().split(" ", 1)[1]
        assert whose.endswith(f":{tmp_path / name}")
        assert view == f"Comparison of {whose}"
        assert note.startswith(f"{whose}: Best prefix: this one. [compare the runs](")


def test_a_store_of_ones_own_needs_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    view, note = saved(tmp_path, monkeypatch)
    assert view == "Comparison"
    assert note.startswith("Best prefix: this one. [compare the runs](")


def test_a_runs_score_is_of_what_it_is_sorted_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval of an earlier choice is none of a later measurement; other tags stay."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    params = inside(tmp_path, monkeypatch)
    write_sweep(tmp_path, params)
    name = sweep(params)[0].name
    own = {"my/own interval": "of mine"}
    run = start_run(open_experiment(params), name, {}, own)
    for metric in ("exact_match", "token_f1"):
        sorted_by = params_of(report={"sort_by": metric})
        tell_score(sorted_by, run, paths.EVALUATE / name)
        tags = MlflowClient().get_run(run).data.tags
        assert tags["score"].endswith("%")
        intervals = {key for key in tags if key.endswith(" interval")}
        assert intervals == {f"test/{metric} interval", *own}
