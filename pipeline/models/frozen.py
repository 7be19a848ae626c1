"""Loading the frozen model from the folder that `fetch_model` wrote."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.errors import PipelineError, first_line
from pipeline.errors.memory import is_out_of_memory
from pipeline.models.auto_classes import auto_class
from pipeline.schema.compute import Compute


def load_frozen_model(folder: Path, compute: Compute) -> PreTrainedModel:
    """The causal language model in evaluation mode, no weight of which takes a gradient.

    Of a multimodal checkpoint the whole, for text. Raises PipelineError when the folder does not
    hold one.
    """
    logging.disable_progress_bar()
    dtype = "auto" if compute.dtype == "auto" else compute.dtype
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = auto_class("causal_lm", config.model_type).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,  # pickled weights can run code
            trust_remote_code=False,  # without it transformers would ask on the terminal
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise not_a_model(folder, error) from error
    return model.requires_grad_(False).eval().to(resolve_device(compute.device))


def resolve_device(name: str) -> torch.device:
    """The device a params key names; `auto` takes CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PipelineError(f"device: '{name}' is not available here; use auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PipelineError(f"device: '{name}' is not available here; use auto or cpu")
    return device


def not_a_model(folder: Path, error: Exception) -> PipelineError:
    """The error to raise for a folder that transformers cannot load as asked.

    One of memory says nothing of the folder, and is raised as it is.
    """
    if is_out_of_memory(error):
        raise error
    if not folder.exists():
        return PipelineError(f"{folder}: no frozen model here yet; run `dvc repro fetch_model`")
    return PipelineError(
        f"{folder}: holds no usable model ({first_line(error)}); "
        "run `dvc repro --force fetch_model`"
    )
