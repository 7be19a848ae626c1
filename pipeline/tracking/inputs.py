"""The tokenized splits as MLflow's dataset inputs."""

import json
from collections.abc import Mapping

import mlflow.entities
from datasets import Dataset
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

_COLUMNS = ["id", "input", "target"]
_ROWS = 100

# Of a database that refuses a row which another process has put there meanwhile.
_THERE_ALREADY = ("IntegrityError", "UniqueViolation")


def log_splits(run_id: str, splits: Mapping[str, Dataset]) -> None:
    """Log splits as a run's inputs. Raises whatever MLflow raises.

    All runs of a sweep share them in MLflow's store, and of two trainings that begin at once one is
    refused: it finds them at its next attempt.
    """
    inputs = as_inputs(splits)
    try:
        MlflowClient().log_inputs(run_id, datasets=inputs)
    except MlflowException as error:
        if not any(name in str(error) for name in _THERE_ALREADY):
            raise
        MlflowClient().log_inputs(run_id, datasets=inputs)


def as_inputs(splits: Mapping[str, Dataset]) -> list[DatasetInput]:
    """Each split under its own fingerprint: the same data is the same digest on every machine."""
    inputs = []
    for name, split in splits.items():
        # The first rows tell the types of all.
        table = split.select_columns(_COLUMNS).select(range(min(_ROWS, len(split)))).to_pandas()
        data = from_pandas(table, name=name, digest=split._fingerprint)._to_mlflow_entity()
        profile = {"num_rows": len(split), "num_elements": len(split) * len(_COLUMNS)}
        entity = mlflow.entities.Dataset(
            data.name, data.digest, data.source_type, data.source, data.schema, json.dumps(profile)
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training" if name == "train" else name)
        inputs.append(DatasetInput(entity, [context]))
    return inputs
