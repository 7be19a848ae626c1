"""A device for each process of a training."""

import os

import torch

from pipeline.distributed.ranks import Ranks
from pipeline.errors import PipelineError
from pipeline.schema.compute import DeviceMap


def refuse_shared_device(name: str, ranks: Ranks) -> None:
    """Raise PipelineError where processes would have to share the device that a params key names.

    On the CPU they share cores, not memory. Of CUDA's devices each has that of its `LOCAL_RANK`.
    """
    if ranks.size == 1 or name == "cpu":
        return
    cuda = torch.cuda.is_available()
    if name == "mps" or ":" in name or (not cuda and torch.backends.mps.is_available()):
        raise PipelineError(
            f"train.device: {name} is one device for {ranks.size} processes; set it to cpu, or on "
            "machines with GPUs to cuda"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
    if cuda and here > torch.cuda.device_count():
        raise PipelineError(
            f"this machine has {torch.cuda.device_count()} GPUs for {here} processes; start "
            "fewer (hardware.processes, or torchrun's --nproc-per-node), or set train.device: cpu"
        )


def refuse_spread_model(device_map: DeviceMap | None, ranks: Ranks) -> None:
    """Raise PipelineError where processes would each spread a model over the same devices."""
    if ranks.size > 1 and device_map is not None:
        raise PipelineError(
            f"model.device_map: {device_map} spreads one model over all devices, and this training "
            f"has {ranks.size} processes; set it to null, or start one process"
        )
