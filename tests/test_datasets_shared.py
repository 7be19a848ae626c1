"""Of two trainings that log the same splits at once, the one that MLflow refuses tries again."""

from typing import Any

import pytest
from datasets import Dataset
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.tracking.inputs import log_splits


def splits() -> dict[str, Dataset]:
    return {"train": Dataset.from_dict({"id": ["0"], "input": ["a"], "target": ["b"]})}


def refusing(monkeypatch: pytest.MonkeyPatch, *errors: str) -> list[Any]:
    """Have MLflow refuse so many attempts; returns what arrives."""
    left = list(errors)
    arrived: list[Any] = []

    def log_inputs(self: MlflowClient, run_id: str, datasets: Any) -> None:
        if left:
            raise MlflowException(left.pop(0))
        arrived.append((run_id, [item.dataset.name for item in datasets]))

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs)
    return arrived


def test_who_comes_second_finds_the_datasets_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id"
    arrived = refusing(monkeypatch, said)
    log_splits("run", splits())
    assert arrived == [("run", ["train"])]


def test_any_other_refusal_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = refusing(monkeypatch, "no answer")
    with pytest.raises(MlflowException, match="no answer"):
        log_splits("run", splits())
    assert not arrived
