"""The GPUs that each worker sees: as many as one of its stages uses."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Params
from pipeline.config.self_study import asking_the_model


def gpus_of_stage(params: Params) -> int | None:
    """How many GPUs one stage uses at most; None for all that its machine has.

    All are those of a model that is spread, of a training by a process a GPU, and of a device that
    is named by its number.
    """
    asking = (*asking_the_model(params.self_study).values(), *params.library.computing().values())
    sections = (params.kv_prefix, params.train, params.evaluate, *asking)
    numbered = any(":" in section.device for section in sections)
    processes = 1 if params.train.device == "cpu" else params.hardware.processes
    if numbered or params.device_map is not None or processes == "auto":
        return None
    return processes


def shared_out(gpus: Sequence[str], needed: int | None, workers: int | None) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` is for each of the workers; none without GPUs.

    Each gets as many as are needed (see `gpus_of_stage`), or an equal part of all; there are as
    many groups as that leaves, whatever number of workers takes turns at them.
    """
    if needed is None:
        needed = len(gpus) // (workers or 1)
    size = max(1, min(needed, len(gpus)))
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, as that variable names them; none without CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or (visible is None and not Path("/dev/nvidiactl").exists()):
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    # Of a card's slices (MIG) a process counts the first alone.
    if named and count and all(name.startswith("MIG-") for name in named):
        return named
    return (named or [str(index) for index in range(count)])[:count]
