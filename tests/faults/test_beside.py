"""Two workspaces that log the same variants to one server leave each other's runs alone."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.runs import CURRENT, start_run
from pipeline.tracking.store import experiment_named
from pipeline.workspace import location

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
    home = Path("/work/project")
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
    monkeypatch.chdir(tmp_path)
    assert location.label().endswith(f":{tmp_path}")
