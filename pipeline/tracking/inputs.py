"""The tokenized splits as MLflow's dataset inputs."""

from collections.abc import Mapping

from datasets import Dataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT


def as_inputs(splits: Mapping[str, Dataset]) -> list[DatasetInput]:
    """Each split under its own fingerprint: the same data is the same digest on every machine."""
    inputs = []
    for name, split in splits.items():
        table = split.select_columns(["id", "input", "target"]).to_pandas()
        data = from_pandas(table, name=name, digest=split._fingerprint)
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training" if name == "train" else name)
        inputs.append(DatasetInput(data._to_mlflow_entity(), [context]))
    return inputs
