"""Reading what a finished sweep of the tests left: its MLflow runs, and what DVC said it ran."""

import re
from typing import Any

from mlflow import MlflowClient

from tests.conftest import Workspace

VARIANTS = ["len2-random-seed0", "len2-corpus-seed0", "len4-random-seed0", "len4-corpus-seed0"]


def client(workspace: Workspace) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{workspace.root / 'mlflow.db'}")


def runs(workspace: Workspace, filter_string: str = "") -> list[Any]:
    mlflow = client(workspace)
    experiment = mlflow.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(mlflow.search_runs([experiment.experiment_id], filter_string))


def ran(output: str) -> set[str]:
    """The stages that `dvc repro` says it runs, or would run."""
    return set(re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE))
