"""The stages of one variant, one after another in this process.

For what a model is through the whole graph: what DVC does between stages is the matter of others,
and an architecture is tried once, not in each stage's process. `make test-all` leaves it to DVC.
"""

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from tests.conftest import WHOLE_SWEEPS, Workspace


def run_graph(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    start: str,
    *more: str,
    reports: bool = True,
) -> None:
    """Run the stages of the variant with seed 0, and `more` before the report.

    Afterwards this is the working folder, and no MLflow is in reach. `reports`: whether the report,
    the dearest, is made too.
    """
    monkeypatch.chdir(workspace.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if WHOLE_SWEEPS:
        workspace.run("dvc", "repro")
        return
    variant = f"--length {length} --initialization {start} --seed 0"
    before = ("fetch_model", "fetch_data", "tokenize", f"kv_prefix {start}")
    after = (f"train {variant}", f"evaluate {variant}", "baselines no_prefix")
    for stage in (*before, *after, *more, "inspect", *(["report"] if reports else [])):
        succeed(*stage.split())


def succeed(*command: str) -> None:
    """Run a command of `python -m pipeline` that has to go well."""
    result = CliRunner().invoke(main, list(command))
    assert result.exit_code == 0, (command, result.output, result.exception)
