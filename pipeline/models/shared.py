"""The frozen model as the stages of one process share it: `pipeline.models.kept`."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from pipeline.data.task_type import CAUSAL_LM, TaskType
from pipeline.models import for_task
from pipeline.models.kept import Loaded, kept, let_go
from pipeline.schema.compute import Compute, DeviceMap


def load_for_task(
    folder: Path,
    compute: Compute,
    task: TaskType,
    seed: int = 0,
    device_map: DeviceMap | None = None,
) -> Loaded:
    """As `pipeline.models.for_task` loads it, for what leaves it as it is.

    A classifier's head is drawn for each seed: such a model is never shared.
    """

    def load() -> Loaded:
        return for_task.load_for_task(folder, compute, task, seed, device_map)

    if task.is_classification:
        let_go()
        return load()
    if task.name != CAUSAL_LM.name:
        # Loaded or not, what is drawn next is drawn with it.
        torch.manual_seed(seed)
    # Sections of params.yaml have other keys besides.
    precision = compute.model_dump(include=set(Compute.model_fields))
    return kept(folder, (precision, task.name, device_map), load)


def load_frozen_model(
    folder: Path, compute: Compute, device_map: DeviceMap | None = None
) -> PreTrainedModel:
    """As `pipeline.models.frozen` loads it, for what leaves it as it is."""
    model, _ = load_for_task(folder, compute, CAUSAL_LM, 0, device_map)
    return model
