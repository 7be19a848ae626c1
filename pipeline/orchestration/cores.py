"""How many workers share the cores of a machine without GPUs, where nobody says it.

Two: while one loads, tokenizes, decodes token by token or writes to MLflow, which a single core
does, the other has use for the cores that are left.
"""

import os
import sys
from pathlib import Path

import psutil

from pipeline.config import Params

_MOST = 2
_OTHER_GPUS = Path("/dev/kfd")  # AMD's; NVIDIA's have workers of their own
_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Of a worker: libraries and activations, and the weights, once more while they are loaded, in twice
# the bytes that are stored (float32 of bfloat16).
_BESIDE_WEIGHTS = 3 * 2**29
_OF_WEIGHTS = 3


def workers_on_cores(params: Params) -> int:
    """How many workers there are at most: one for a single core, and where a stage takes all.

    That is a training in several processes, a model that is spread, and a GPU that workers would
    have to share.
    """
    takes_all = params.hardware.processes != 1 or params.device_map is not None
    if takes_all or sys.platform == "darwin" or _OTHER_GPUS.exists():
        return 1
    return min(_MOST, _cores())


class Room:
    """How many of `count` workers have room in memory for the model in a folder, at least one.

    All of them until it is there. What there is room for is asked once: afterwards workers hold it.
    """

    def __init__(self, count: int, model: Path) -> None:
        self._count, self._model = count, model
        self._found: int | None = None

    def __call__(self) -> int:
        if self._found is None:
            weights = sum(file.stat().st_size for file in self._model.glob("*.safetensors"))
            if not weights:
                return self._count
            each = _OF_WEIGHTS * weights + _BESIDE_WEIGHTS
            self._found = max(1, min(self._count, _free_bytes() // each))
        return self._found


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_bytes() -> int:
    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):
        # No limit is `max`.
        return free
