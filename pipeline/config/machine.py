"""Where and how the frozen model computes: keys of several sections that do not go together."""

from collections.abc import Mapping

from pipeline.config.hardware import HardwareParams
from pipeline.config.model import Model
from pipeline.config.train import TrainParams
from pipeline.config.trained_baselines import TrainedBaselines
from pipeline.schema.compute import Compute


def refuse_two_places(model: Model, computing: Mapping[str, Compute]) -> None:
    """Raise ValueError for a section's device beside a map of the model's.

    `computing` has the sections that compute, by name.
    """
    if model.device_map is None:
        return
    for name, section in computing.items():
        if section.device != "auto":
            raise ValueError(
                f"{name}.device: {section.device} does not go with model.device_map, which "
                "says where the model is; set it to auto"
            )


def refuse_unfit_for_quantized(model: Model, baselines: TrainedBaselines) -> None:
    """Raise ValueError for a quantized model on disk, or whose weights a baseline trains."""
    if model.quantization is None:
        return
    if isinstance(model.device_map, dict) and "disk" in model.device_map.values():
        raise ValueError(
            "model.device_map: disk does not go with model.quantization, whose weights stay on "
            "devices; use cpu or the number of a GPU, or set that to null"
        )
    for name, baseline in baselines.items():
        if baseline.trains_every_weight:
            raise ValueError(
                f"trained_baselines.{name}: {baseline.type} trains every weight, and those of "
                "model.quantization cannot be trained; leave it out, or set that to null"
            )


def refuse_attention_elsewhere(hardware: HardwareParams, computing: Mapping[str, Compute]) -> None:
    """Raise ValueError for a backend of attention that is named and not for a section's device."""
    if hardware.attention in ("auto", "operators"):
        return
    serves = "cpu" if hardware.attention == "kernel" else "cuda"
    for name, section in computing.items():
        if section.device != "auto" and section.device.partition(":")[0] != serves:
            raise ValueError(
                f"hardware.attention: {hardware.attention} is for {serves}, and {name}.device is "
                f"{section.device}; set one of them to auto"
            )


def refuse_impossible_processes(hardware: HardwareParams, model: Model, train: TrainParams) -> None:
    """Raise ValueError where the processes of a training could not have what they need."""
    if hardware.processes != 1 and (train.device == "mps" or ":" in train.device):
        raise ValueError(
            f"hardware.processes: {hardware.processes} need devices of their own, and "
            f"train.device: {train.device} is one; set it to auto, cuda or cpu"
        )
    if hardware.processes != 1 and model.device_map is not None:
        raise ValueError(
            f"hardware.processes: {hardware.processes} each hold a model of their own, and "
            f"model.device_map: {model.device_map} spreads one over all devices; set one "
            "of them to its default"
        )
    if not hardware.shard_frozen_model:
        return
    if model.device_map is not None:
        raise ValueError(
            "hardware.shard_frozen_model: true does not go with model.device_map, which spreads "
            "the model of one process; set one of them to its default"
        )
    if model.quantization is not None:
        raise ValueError(
            "hardware.shard_frozen_model: true does not go with model.quantization, whose "
            "weights cannot be split; set one of them to its default"
        )
    if train.compile is True:
        raise ValueError(
            "hardware.shard_frozen_model: true does not go with train.compile: true; use auto"
        )


def refuse_compiling_others(model: Model, train: TrainParams, of: str = "") -> None:
    """Raise ValueError for layers that are to be compiled and are not as transformers made them.

    `of` is what stands before the section's name.
    """
    for key, value in (("device_map", model.device_map), ("quantization", model.quantization)):
        if train.compile is True and value is not None:
            raise ValueError(
                f"{of}train.compile: true does not go with model.{key}, whose layers are not "
                "compiled; set it to auto or false"
            )
