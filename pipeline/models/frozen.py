"""Loading the frozen model from the folder that `fetch_model` wrote."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.errors import PipelineError, first_line
from pipeline.errors.memory import is_out_of_memory
from pipeline.models.auto_classes import auto_classes
from pipeline.models.precision import resolve_dtype
from pipeline.models.quantization import quantizing, read_quantization, refuse_without, settle
from pipeline.schema.compute import Compute, DeviceMap

# What transformers raises for a folder that it cannot make a model of.
_NO_MODEL = (OSError, ValueError, RuntimeError, SafetensorError, ImportError, StrictDataclassError)


def load_frozen_model(
    folder: Path, compute: Compute, device_map: DeviceMap | None = None
) -> PreTrainedModel:
    """The causal language model in evaluation mode, no weight of which takes a gradient.

    Of a multimodal checkpoint the text model where transformers has one alone, else the whole.
    With `device_map` accelerate spreads its parts over devices, memory and disk. Raises
    PipelineError when the folder does not hold one.
    """
    model, found = load_weights("causal_lm", folder, compute, device_map)
    refuse_lacking(folder, "causal_lm", found)
    return model


def refuse_lacking(folder: Path, task: str, found: dict[str, Any]) -> None:
    """Raise PipelineError where weights of a language model were drawn, for want of any."""
    if lacking := sorted(found["missing_keys"]):
        raise PipelineError(
            f"{folder}: has no weights for {lacking[0]}, which task.type: {task} needs; "
            "use a model that was trained to write text"
        )


def load_weights(
    task: str, folder: Path, compute: Compute, device_map: DeviceMap | None, **extra: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model for a type of task as `load_frozen_model` gives it, and what its files lacked.

    `extra` are keywords of `from_pretrained`. Raises PipelineError as `load_frozen_model` does.
    """
    logging.disable_progress_bar()
    device = resolve_device(compute.device)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kinds = auto_classes(task, config.model_type)
        placed: dict[str, Any] = {} if device_map is None else {"device_map": _places(device_map)}
        dtype = resolve_dtype(folder, config, compute, device if device_map is None else None)
        if (quantized := _quantizing(folder, config, dtype)) is not None:
            # Weights cannot be moved once they are quantized.
            placed = {"device_map": {"": device}, **quantized, **placed}
        for kind in kinds:
            model, found = kind.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,  # pickled weights can run code
                trust_remote_code=False,  # without it transformers would ask on the terminal
                output_loading_info=True,
                **placed,
                **extra,
            )
            if not found["missing_keys"]:
                break
    except _NO_MODEL as error:
        raise _why_not(folder, device_map, error) from error
    if isinstance(device_map, dict):
        _refuse_unplaced(model, device_map)
    model = model.requires_grad_(False).eval()
    if quantized is not None:
        settle(model)
    return (model if placed else model.to(device)), found


def _why_not(folder: Path, device_map: DeviceMap | None, error: Exception) -> PipelineError:
    """The error to raise for a model that cannot be loaded in the way that params ask for."""
    whole = not is_out_of_memory(error) and (folder / "config.json").exists()
    scheme = read_quantization(folder) if whole else None
    if scheme is not None and device_map is not None:
        return PipelineError(
            f"model.device_map: {scheme.library} cannot quantize to {scheme.bits} bits a model so "
            f"placed ({first_line(error)}); keep all of it on devices, or set model.quantization "
            "to null"
        )
    if scheme is not None:
        return PipelineError(
            f"model.quantization: {scheme.library} cannot quantize this model to {scheme.bits} "
            f"bits so ({first_line(error)}); choose another library, or null"
        )
    if whole and device_map is not None:
        return PipelineError(
            f"model.device_map: transformers cannot place the model so ({first_line(error)}); use "
            "auto, or name every module and a device that is here"
        )
    return not_a_model(folder, error)


def _places(device_map: DeviceMap) -> Any:
    """As `from_pretrained` takes it. Raises PipelineError for a device that is not here."""
    if isinstance(device_map, str):
        return device_map
    for name, place in device_map.items():
        if not _is_here(place):
            raise PipelineError(
                f"model.device_map: puts '{name}' on {place}, which is not here; use auto, or a "
                "device that is"
            )
    return dict(device_map)


def _is_here(place: int | str) -> bool:
    if isinstance(place, int):
        return place < torch.accelerator.device_count()
    if place.startswith("cuda"):
        return (torch.device(place).index or 0) < torch.cuda.device_count()
    return place != "mps" or torch.backends.mps.is_available()


def _refuse_unplaced(model: PreTrainedModel, device_map: dict[str, int | str]) -> None:
    """Raise PipelineError for weights that a mapping does not name, nor a module around them."""
    for name, _ in model.named_parameters():
        if not any(place in ("", name) or name.startswith(f"{place}.") for place in device_map):
            raise PipelineError(
                f"model.device_map: says no place for '{name}'; name every module, or use auto"
            )


def _quantizing(folder: Path, config: Any, dtype: torch.dtype) -> dict[str, Any] | None:
    """What quantizes weights in `from_pretrained`; None for those that stay whole.

    Of those that are quantized already the configuration says it all.
    """
    scheme, before = read_quantization(folder), getattr(config, "quantization_config", None)
    if before is not None:
        method = before.get("quant_method") if isinstance(before, dict) else before.quant_method
        method = str(getattr(method, "value", method))
        if method in ("bitsandbytes", "torchao"):
            refuse_without(method)
        return {}
    if scheme is None:
        return None
    return {"quantization_config": quantizing(scheme, dtype)}


def resolve_device(name: str) -> torch.device:
    """The device a params key names; `auto` takes CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not _is_here(name):
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
