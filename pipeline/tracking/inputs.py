"""The tokenized splits as MLflow's dataset inputs."""

import json
from collections.abc import Mapping

import mlflow.entities
from datasets import Dataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

_COLUMNS = ["id", "input", "target"]
_ROWS = 100


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
