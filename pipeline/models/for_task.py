"""The frozen model with the head that a task needs."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from pipeline.data.task_type import TaskType
from pipeline.models.frozen import load_frozen_model, load_weights, refuse_lacking
from pipeline.schema.compute import Compute, DeviceMap

# What transformers calls the trained end of a classifier.
_HEADS = ("classifier", "score", "classification_head", "pre_classifier")


def load_for_task(
    folder: Path,
    compute: Compute,
    task: TaskType,
    seed: int = 0,
    device_map: DeviceMap | None = None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The frozen model with the head that a task needs, and the names of the modules to train.

    Those are a classifier's head and whatever else of it the model's files lack, drawn with
    `seed`; none for a language model. Raises PipelineError when the folder holds no such model.
    """
    if task.name == "causal_lm":
        return load_frozen_model(folder, compute, device_map), ()

    # That a head is new is what is meant here, and no cause for a warning.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    extra: dict[str, Any] = {}
    if task.is_classification:
        extra["id2label"] = dict(enumerate(task.labels))
        # A head for other labels is drawn anew, as one that is missing.
        extra["ignore_mismatched_sizes"] = True
        extra["label2id"] = {label: index for index, label in enumerate(task.labels)}
    torch.manual_seed(seed)
    try:
        model, found = load_weights(task.name, folder, compute, device_map, **extra)
    finally:
        logging.set_verbosity(verbosity)
    if model.config.pad_token_id is None:
        eos = model.config.eos_token_id
        model.config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    if not task.is_classification:
        refuse_lacking(folder, task.name, found)
        return model, ()
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    return model, _modules_to_train(model, missing)


def _modules_to_train(model: PreTrainedModel, missing: set[str]) -> tuple[str, ...]:
    children = dict(model.named_children())
    heads = [name for name in _HEADS if name in children]
    others = {key.rpartition(".")[0] for key in missing}
    return (*heads, *sorted(name for name in others if name.split(".")[0] not in heads))
