"""The modules of the model in a folder, by its configuration alone."""

from pathlib import Path

import torch
from transformers.utils import logging

from pipeline.errors import PipelineError
from pipeline.models.auto_classes import auto_classes
from pipeline.models.configuration import read_configuration


def modules_of_model(folder: Path, task: str) -> dict[str, str] | None:
    """The class of each module of the model for a type of task, by the module's name.

    Where several classes may load it, of each of them. None of what is no model's folder, and of a
    model that cannot be made of its configuration. No weights are read or drawn: what it costs is
    the import of transformers and of the model's code.
    """
    config = read_configuration(folder)
    if config is None:
        return None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            models = [kind.from_config(config) for kind in auto_classes(task, config.model_type)]
    except (PipelineError, ValueError, TypeError, AttributeError, RuntimeError, ImportError):
        return None
    finally:
        logging.set_verbosity(verbosity)
    return {
        name: type(module).__name__
        for model in models
        for name, module in model.named_modules()
        if name
    }
