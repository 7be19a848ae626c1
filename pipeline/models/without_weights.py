"""The model in a folder by its configuration alone, for what can be known without weights."""

from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from pipeline.errors import PipelineError
from pipeline.models.auto_classes import auto_classes
from pipeline.models.configuration import read_configuration


def models_without_weights(folder: Path, task: str) -> list[PreTrainedModel]:
    """The model for a type of task, as each class makes it that may load it, on the meta device.

    None of what is no model's folder, and of a model that cannot be made of its configuration. No
    weights are read or drawn: what it costs is the import of transformers and of the model's code.
    """
    config = read_configuration(folder)
    if config is None:
        return []
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            return [kind.from_config(config) for kind in auto_classes(task, config.model_type)]
    except (PipelineError, ValueError, TypeError, AttributeError, RuntimeError, ImportError):
        return []
    finally:
        logging.set_verbosity(verbosity)
