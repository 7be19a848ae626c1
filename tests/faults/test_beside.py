"""Two workspaces that log the same variants to one server leave each other's runs alone."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config import load_params
from pipeline.sweep.grid import all_baselines, sweep
from pipeline.tracking.evaluation_log import log_baseline, log_variant
from pipeline.tracking.runs import CURRENT, start_run
from pipeline.tracking.store import experiment_named
from pipeline.workspace import location
from tests.conftest import Workspace
from tests.sweep_runs import runs

NAME = "len2-corpus-seed0"


@pytest.mark.real
def test_two_people_on_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    started = []
    for person in ("one", "other", "one"):
        (tmp_path / person).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / person)
        started.append(start_run(experiment_named("shared"), NAME, {}, {"kind": "variant"}))
    states = [MlflowClient().get_run(run).data.tags["state"] for run in started]
    assert states == ["superseded", CURRENT, CURRENT]


def test_a_temporary_copy_knows_its_home() -> None:
    home = Path("/home/someone/project")
    copy = home / ".dvc" / "tmp" / "exps" / "tmpabc"
    assert location.home(copy) == home
    assert location.is_temporary(copy)
    assert location.home(home) == home
    assert not location.is_temporary(home)


def test_an_experiment_in_a_copy_has_a_label_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_EXP_NAME", "brave-fox")
    monkeypatch.chdir(copy)
    assert location.label().endswith(f":{tmp_path}#brave-fox")
    # DVC takes a name that would end a text in MLflow's filters.
    monkeypatch.setenv("DVC_EXP_NAME", "it's")
    assert location.label().endswith(f":{tmp_path}#it_s")
    monkeypatch.chdir(tmp_path)
    assert location.label().endswith(f":{tmp_path}")


def test_a_workspace_is_known_again_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new container has another host name and user, and may see the folder at another path."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    first = location.label()
    assert location.label() == first
    monkeypatch.setattr("socket.gethostname", lambda: "f3a91c")
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    assert location.label() == first
    here.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert location.label() == first
    # The same folder under two mount points.
    (tmp_path / "mounted").symlink_to(tmp_path / "moved")
    assert location._kept_label(tmp_path / "mounted") == first
    assert location.label() == first


def test_a_copy_beside_its_original_is_another_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    first = location.label()
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    other = location.label()
    assert other != first
    assert location.label() == other
    monkeypatch.chdir(tmp_path / "one")
    assert location.label() == first
    # Two folders of one path, as in two containers, never share a name.
    (tmp_path / "one").rename(tmp_path / "away")
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    assert location.label() not in (first, other)


@pytest.mark.parametrize("content", ["", "[]", '{"label": 3}', "\x00"])
def test_a_damaged_or_missing_name_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "workspace.json").write_text(content)
    assert location.label().endswith(f":{tmp_path}")
    assert location.label() == location.label()


def test_where_nothing_can_be_written_there_is_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    assert location.label().endswith(f":{tmp_path}")


@pytest.mark.real
def test_a_new_host_name_logs_and_registers_nothing_again(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {run.info.run_id: run.data.tags.get("model_version") for run in runs(copy)}
    monkeypatch.chdir(copy.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy.root}/mlflow.db")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    params = load_params()
    logged = [log_variant(params, variant) for variant in sweep(params)]
    logged += [log_baseline(params, baseline) for baseline in all_baselines(params)]
    assert set(logged) <= before.keys()
    after = {run.info.run_id: run.data.tags.get("model_version") for run in runs(copy)}
    assert after == before
